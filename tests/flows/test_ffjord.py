"""Flows in continuous time, beyond what holds of every bijection."""

import copy

import pytest
import torch
from torch import Tensor

from glow.bijections import Continuous
from glow.errors import UsageError
from glow.evaluation.bits import evaluate_log_probs
from glow.flows import FFJORD
from glow.networks import Velocity


def shaken(module: torch.nn.Module, sd: float = 0.3) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += sd * torch.randn_like(parameter)
    return module.double()


def all_signs(n: int, d: int) -> Tensor:
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d).T.expand(n, d, 2**d)


@pytest.mark.parametrize("solver", ["dopri5", "euler"])
def test_the_density_integrates_to_one(solver: str) -> None:
    """Whatever the solver of the training was: two steps of Euler are no density."""
    flow = shaken(FFJORD((2,), hidden=16, hidden_layers=2, solver=solver, steps=2)).eval()
    axis = torch.linspace(-9, 9, 121, dtype=torch.float64)
    with torch.no_grad():
        log_prob = flow.log_prob(torch.cartesian_prod(axis, axis))
    assert log_prob.exp().sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


def test_the_mean_over_all_probes_is_the_exact_trace() -> None:
    f, x = shaken(Continuous(Velocity(3, 8, 1), tolerance=1e-10)), torch.randn(4, 3, dtype=torch.float64)
    (z, exact), (same, mean) = f(x), f(x, all_signs(4, 3))
    torch.testing.assert_close(same, z)
    torch.testing.assert_close(mean, exact)
    one = f(x, all_signs(4, 3)[..., :1])[1]
    assert (one - exact).abs().max() > 0.01
    torch.testing.assert_close(f(x, x.new_zeros(4, 3, 0))[1], torch.zeros_like(exact))


def test_equal_steps_are_for_training_and_do_not_see_the_batch() -> None:
    f, x = (
        shaken(Continuous(Velocity(2, 16, 2), "midpoint", steps=3)),
        torch.randn(50, 2, dtype=torch.float64),
    )
    z, log_det = f(x)
    assert f.evaluations == 6
    alone, alone_log_det = f(x[:1])
    torch.testing.assert_close(alone[0], z[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(alone_log_det[0], log_det[0], rtol=0, atol=1e-14)
    f.eval()(x)
    assert f.evaluations > 6


def test_dopri5_sees_the_batch_by_about_its_tolerance() -> None:
    f, x = shaken(Continuous(Velocity(2, 16, 2), tolerance=1e-7)), torch.randn(50, 2, dtype=torch.float64)
    z, log_det = f(x)
    alone = [f(x[i : i + 1]) for i in range(10)]
    torch.testing.assert_close(torch.cat([a[0] for a in alone]), z[:10], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([a[1] for a in alone]), log_det[:10], rtol=0, atol=1e-5)


@pytest.mark.parametrize("backwards", [False, True])
def test_training_adds_the_energy_to_the_gradient_and_not_to_the_value(backwards: bool) -> None:
    f = shaken(Continuous(Velocity(2, 8, 1), "rk4", steps=20, kinetic=0.3, jacobian=0.2))
    x, e = torch.randn(5, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)[:, None].expand(2, 5, 2)

    def gradient(value: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value.sum(), list(f.parameters()))])

    def log_det() -> Tensor:
        return (f.inverse if backwards else f)(x)[1]

    def energy() -> Tensor:
        """By the trapezoid over the path, which Euler walks."""
        steps, total, at = 400, torch.zeros(5, dtype=torch.float64), x
        for k in range(steps):
            t = torch.tensor(1 - k / steps if backwards else k / steps, dtype=torch.float64)
            v, products = f.velocity.with_products(t, at, e)
            total = total + (0.3 * v.square().sum(1) + 0.2 * products.square().sum((0, 2))) / steps
            at = at + (-v if backwards else v) / steps
        return total

    trained = log_det()
    f.kinetic = f.jacobian = 0.0
    plain = log_det()
    torch.testing.assert_close(trained, plain, rtol=0, atol=1e-12)
    added = gradient(trained) - gradient(plain)
    torch.testing.assert_close(added, -gradient(energy()), rtol=3e-2, atol=1e-2)
    assert added.abs().max() > 0.1


def test_images_have_the_same_log_probability_under_the_same_noise() -> None:
    flow = shaken(FFJORD((1, 2, 2), 16, 1, grey_levels=17, gaussianize=True), 0.2)
    x = torch.randint(17, (6, 1, 2, 2), dtype=torch.uint8)
    flow.initialize(x)
    noise = flow.noise(6)
    assert noise is not None
    torch.testing.assert_close(flow.log_prob(x, noise=noise), flow.log_prob(x, noise=noise), rtol=0, atol=0)
    probe = flow.context(None, 6, noise)
    assert probe is not None
    assert set(probe.unique().tolist()) == {-1.0, 1.0}
    assert flow.eval().sample(3).dtype == torch.uint8
    first = evaluate_log_probs(flow, [(x,)])
    torch.testing.assert_close(first, evaluate_log_probs(flow, [(x,)]), rtol=0, atol=0)


def test_what_is_lost_on_the_way_back_is_within_the_tolerance() -> None:
    flow = shaken(FFJORD((1, 2, 2), 16, 1, grey_levels=17, gaussianize=True), 0.2).eval()
    x = torch.randint(17, (200, 1, 2, 2), dtype=torch.uint8)
    flow.initialize(x)
    assert torch.equal(flow.decode(flow.encode(x)), x)


def test_vectors_of_more_dimensions_need_noise() -> None:
    flow = FFJORD((5,), hidden=8)
    noise = flow.noise(3)
    assert noise is not None
    assert noise.shape == (3, 5)
    x = torch.randn(3, 5)
    assert not torch.equal(flow.log_prob(x), flow.log_prob(x))
    assert torch.equal(flow.log_prob(x, noise=noise), flow.log_prob(x, noise=noise))
    assert FFJORD((2,)).noise(3) is None


def test_in_inference_mode_and_after_a_copy() -> None:
    flow, x = FFJORD((2,), hidden=8, kinetic=0.1), torch.randn(4, 2)
    expected = flow.log_prob(x).detach()
    with torch.inference_mode():
        torch.testing.assert_close(flow.log_prob(x), expected)
    torch.testing.assert_close(copy.deepcopy(flow).log_prob(x).detach(), expected)
    assert flow.figures()["evaluations"] > 7


def test_an_equation_that_no_step_solves_is_not_a_number() -> None:
    f = Continuous(Velocity(2, 8, 1))
    with torch.no_grad():
        f.velocity.linear[0].weight.fill_(torch.nan)
    z, log_det = f(torch.ones(3, 2))
    assert z.isnan().all()
    assert log_det.isnan().all()
    log_det.sum().backward()  # as the loss of any step that is skipped
    assert all(p.grad is not None for p in f.parameters())


def test_an_estimate_has_no_importance_weighted_bound() -> None:
    flow, x = FFJORD((3,), hidden=8), torch.randn(4, 3)
    with pytest.raises(UsageError, match="bound must be mean"):
        evaluate_log_probs(flow, [(x,)], draws=2, bound="iw")
    mean = evaluate_log_probs(flow, [(x.repeat(1000, 1),)], draws=2).mean()  # many probes in one solve
    z, log_det = flow.bijection(x)
    torch.testing.assert_close(mean, (flow.base.log_prob(z) + log_det).mean().double(), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solver": "rk45"}, "solver"),
        ({"steps": 0}, "steps"),
        ({"tolerance": 0}, "tolerance"),
        ({"kinetic": -1}, "kinetic"),
        ({"hidden": 0}, "hidden"),
        ({"base": "cauchy"}, "base"),
        ({"event_shape": (1, 8, 8)}, "grey_levels"),
    ],
)
def test_refusals(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FFJORD(**{"event_shape": (2,), **wrong})
