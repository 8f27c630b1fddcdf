"""Residual flows, beyond what holds of every bijection."""

import copy

import pytest
import torch
from torch import Tensor, nn

from glow.bijections import Residual, residual
from glow.errors import UsageError
from glow.evaluation.bits import evaluate_log_probs
from glow.flows import ResidualFlow
from glow.networks import LipschitzMLP
from glow.networks.lipschitz import spectral_norm


def shaken(module: nn.Module, sd: float = 0.5) -> nn.Module:
    """In float64, its weights far beyond what a contraction may have."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += sd * torch.randn_like(parameter)
    return module.double()


def drawn(n: int, d: int, k: int) -> Tensor:
    """Probes and numbers of terms, (n, d + 1, k)."""
    probes = 2.0 * torch.randint(2, (n, d, k)) - 1
    more = torch.distributions.Geometric(0.5).sample((n, 1, k))
    return torch.cat((probes, more), dim=1).double()


def images(sd: float = 0.2) -> tuple[ResidualFlow, Tensor]:
    flow = ResidualFlow((1, 2, 2), layers=2, hidden=16, grey_levels=17, gaussianize=True)
    x = torch.randint(17, (6, 1, 2, 2), dtype=torch.uint8)
    flow.initialize(x)
    shaken(flow, sd)
    return flow, x


@pytest.mark.parametrize("shape", [(2, 64), (64, 64), (64, 2), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_spectral_norm_and_its_derivative(shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Also where many singular values are equal, or all zero."""
    for matrix in (
        torch.randn(shape),
        1e-3 * nn.init.orthogonal_(torch.empty(shape)),
        1e4 * torch.ones(shape),
    ):
        w = matrix.to(dtype).requires_grad_()
        norm, expected = spectral_norm(w), torch.linalg.matrix_norm(w, 2)
        torch.testing.assert_close(norm, expected, rtol=6e-4, atol=0)
        (mine,) = torch.autograd.grad(norm, w)
        assert (mine * w).sum().item() == pytest.approx(norm.item(), rel=1e-3)  # it is homogeneous
    u, _, v = torch.linalg.svd(torch.randn(shape, dtype=dtype), full_matrices=False)
    gaps = torch.linspace(3, 1, len(v), dtype=dtype)
    w = (u * gaps @ v).requires_grad_()
    (mine,) = torch.autograd.grad(spectral_norm(w), w)
    torch.testing.assert_close(mine, torch.outer(u[:, 0], v[0]), rtol=1e-3, atol=1e-3)
    zero = torch.zeros(shape, dtype=dtype, requires_grad=True)
    spectral_norm(zero).backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("lipschitz", [0.5, 0.97])
def test_networks_contract(lipschitz: float) -> None:
    """However large their weights and betas: by the norm of the Jacobian at many points, and by the bound that is logged."""
    for beta in (-3.0, 0.5, 20.0):
        g = shaken(LipschitzMLP(5, 16, 2, lipschitz), 3.0)
        assert isinstance(g, LipschitzMLP)
        g.raw_beta.data.fill_(beta)
        _, product = g.linearized(3 * torch.randn(500, 5, dtype=torch.float64))
        columns = product(torch.eye(5, dtype=torch.float64)[:, None].expand(5, 500, 5))
        steepest = torch.linalg.matrix_norm(columns.movedim(0, 2), 2).max().item()
        assert steepest < g.lipschitz() < lipschitz * 1.001
        assert g.lipschitz() == pytest.approx(lipschitz, rel=2e-3)


def test_small_weights_stay_as_they_are() -> None:
    g = LipschitzMLP(3, 8, 1)
    for layer in g.linear:
        layer.weight.data *= 0.1
    for layer, weight in zip(g.linear, g.weights(), strict=True):
        assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("training", [True, False])
def test_the_estimate_and_its_gradient_are_unbiased(training: bool) -> None:
    """Means over 20,000 draws against log|det| of the Jacobian; the roulette goes beyond 2 or 20 exact terms."""
    torch.manual_seed(0)
    f = shaken(Residual(LipschitzMLP(3, 8, 1, 0.9))).train(training)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    wanted = [*f.parameters(), x]

    def gradient(value: Tensor) -> Tensor:
        found = torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])

    exact = f(x)[1]
    context, parts = drawn(2, 3, 20_000), 20
    values = [f(x, c)[1] for c in context.chunk(parts, dim=2)]
    gradients = torch.stack([gradient(value) for value in values])
    for means, truth in ((torch.stack(values).detach(), exact.detach()), (gradients, gradient(exact))):
        error = means.std(0) / parts**0.5
        assert ((means.mean(0) - truth).abs() < 4.5 * error + 1e-12).all()
        assert (error < 0.05 * truth.abs().max()).all()
    assert (2 if training else 20) < f.terms < 50


def test_the_gradient_is_the_neumann_series_not_that_of_the_value() -> None:
    """Both are right in the mean; with one term, a single layer and a symmetric Jacobian they would agree."""
    f, x = shaken(Residual(LipschitzMLP(3, 8, 1, 0.9))), torch.randn(4, 3, dtype=torch.float64)
    context = drawn(4, 3, 1)
    context[:, -1] = 3
    value = f(x, context)[1]
    _, product = f.network.linearized(x)
    v, weights = context[:, :-1, 0], [1, 1, 2, 4, 8]
    powers = [v]
    for _ in weights:
        powers.append(product(powers[-1]))
    terms = [(-1) ** k * w / (k + 1) * (v * p).sum(1) for k, (w, p) in enumerate(zip(weights, powers[1:], strict=True))]  # fmt: skip
    torch.testing.assert_close(value, sum(terms))
    series = sum((-1) ** k * w * p for k, (w, p) in enumerate(zip(weights, powers[:-1], strict=True)))
    assert isinstance(series, Tensor)
    neumann = (v * product(series.detach())).sum()
    weight = f.network.linear[0].weight
    (mine,) = torch.autograd.grad(value.sum(), weight, retain_graph=True)
    (expected,) = torch.autograd.grad(neumann, weight, retain_graph=True)
    (plain,) = torch.autograd.grad(sum(t.sum() for t in terms), weight)  # type: ignore[arg-type]
    torch.testing.assert_close(mine, expected)
    assert (mine - plain).abs().max() > 1e-3


def test_elements_do_not_see_how_many_terms_others_have() -> None:
    f, x, context = shaken(Residual(LipschitzMLP(5, 16, 2))), torch.randn(9, 5).double(), drawn(9, 5, 1)
    context[:, -1, 0] = torch.arange(9)
    value = f(x, context)[1]
    alone = torch.cat([f(x[i : i + 1], context[i : i + 1])[1] for i in range(9)])
    torch.testing.assert_close(value, alone, rtol=0, atol=1e-13)
    without = f.inverse(x, x.new_zeros(9, 5, 0))[1]
    assert torch.equal(without, torch.zeros_like(without))


def test_an_element_is_inverted_the_same_whatever_the_others_are() -> None:
    f = shaken(Residual(LipschitzMLP(3, 16, 2)), 2.0).float()
    z = torch.randn(20, 3) * torch.logspace(-3, 3, 20)[:, None]
    with torch.no_grad():
        alone = torch.cat([f.inverse(row)[0] for row in z.split(1)])
        torch.testing.assert_close(f.inverse(z)[0], alone, rtol=2e-6, atol=2e-6)


def test_an_inverse_that_did_not_end_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    f = shaken(Residual(LipschitzMLP(3, 16, 2)), 2.0)
    monkeypatch.setattr(residual, "ITERATIONS", 3)
    assert f.inverse(torch.randn(4, 3).double())[0].isnan().all()


def test_the_constant_that_is_logged_is_of_full_precision() -> None:
    flow = shaken(ResidualFlow((2,), layers=2)).float()
    figures = flow.figures()
    with torch.autocast("cpu", torch.bfloat16):
        assert flow.figures() == figures


def test_the_derivative_of_the_inverse() -> None:
    f, z = shaken(Residual(LipschitzMLP(3, 8, 2))), torch.randn(1, 3, dtype=torch.float64)
    x = f.inverse(z)[0].detach()
    back = torch.autograd.functional.jacobian(lambda v: f.inverse(v)[0], z).view(3, 3)
    there = torch.autograd.functional.jacobian(lambda v: f(v)[0], x).view(3, 3)
    torch.testing.assert_close(back @ there, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_of_what_is_far_or_no_number(dtype: torch.dtype) -> None:
    f = shaken(Residual(LipschitzMLP(3, 16, 2)), 2.0).to(dtype)
    x = torch.randn(50, 3, dtype=dtype) * torch.logspace(-3, 3, 50, dtype=dtype)[:, None]
    with torch.no_grad():
        back = f.inverse(f(x)[0])[0]
        tolerance = 200 * torch.finfo(dtype).eps
        torch.testing.assert_close(back, x, rtol=tolerance, atol=tolerance)
        x[3] = torch.nan
        assert f.inverse(x)[0].isnan().any(1).sum() == 1


def test_the_density_integrates_to_one() -> None:
    flow = ResidualFlow((2,), layers=3, hidden=16)
    flow.initialize(torch.randn(100, 2))
    shaken(flow, 0.1).eval()
    axis = torch.linspace(-9, 9, 121, dtype=torch.float64)
    with torch.no_grad():
        log_prob = flow.log_prob(torch.cartesian_prod(axis, axis))
    assert log_prob.std() > 1
    assert log_prob.exp().sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=2e-3)


def test_images_have_the_same_log_probability_under_the_same_noise() -> None:
    flow, x = images()
    noise = flow.noise(6)
    assert noise is not None
    torch.testing.assert_close(flow.log_prob(x, noise=noise), flow.log_prob(x, noise=noise), rtol=0, atol=0)
    assert flow.eval().sample(3).dtype == torch.uint8
    assert torch.equal(flow.decode(flow.encode(x)), x)
    torch.testing.assert_close(copy.deepcopy(flow).log_prob(x, noise=noise), flow.log_prob(x, noise=noise))
    with torch.inference_mode():
        assert flow.log_prob(x, noise=noise).isfinite().all()


def test_the_digits_of_the_noise_are_probes_and_numbers_of_terms() -> None:
    flow = ResidualFlow((1, 2, 2), grey_levels=17)
    noise = flow.noise(40_000)
    context = flow.context(None, 40_000, noise)
    assert context is not None
    probes, more = context[:, :4, 0], context[:, 4, 0]
    assert set(probes.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(probes.T @ probes / 40_000, torch.eye(4), rtol=0, atol=0.03)
    for n in range(5):
        assert (more == n).float().mean().item() == pytest.approx(2 ** -(n + 1), abs=0.015)
    assert more.max() > 10
    assert (probes.T @ more / 40_000).abs().max() < 0.04


def test_an_estimate_has_no_importance_weighted_bound() -> None:
    flow, x = ResidualFlow((3,), layers=2, hidden=8), torch.randn(4, 3)
    flow.initialize(x)
    flow.eval()
    with pytest.raises(UsageError, match="bound must be mean"):
        evaluate_log_probs(flow, [(x,)], draws=2, bound="iw")
    with torch.no_grad():
        z, log_det = flow.bijection(x)
        estimates = flow.log_prob(x.repeat(1000, 1)).view(1000, 4)
    error = estimates.mean(0) - flow.base.log_prob(z) - log_det
    assert estimates.std(0).min() > 0.01
    assert (error.abs() < 5 * estimates.std(0) / 1000**0.5).all()
    assert flow.figures()["terms"] > 20
    assert ResidualFlow((2,)).noise(3) is None
    assert set(ResidualFlow((2,)).figures()) == {"lipschitz"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lipschitz": 0.995}, "lipschitz must be at most 0.99"),
        ({"lipschitz": 0}, "lipschitz"),
        ({"layers": 0}, "layers"),
        ({"hidden": 0}, "hidden"),
        ({"base": "cauchy"}, "base"),
        ({"event_shape": (1, 8, 8)}, "grey_levels"),
    ],
)
def test_refusals(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ResidualFlow(**{"event_shape": (2,), **wrong})
