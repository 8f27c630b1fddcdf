"""What is particular to one bijection."""

import math

import pytest
import torch
from torch import nn

from glow.bijections import (
    ActNorm,
    Affine,
    Checkerboard,
    Composition,
    Coupling,
    Halves,
    LogisticMixture,
    LUConv1x1,
    MultiScale,
    Permutation,
    Shift,
    Spline,
    Squeeze,
    TopPrior,
    record_scales,
)
from glow.bijections.elementwise import sigmoid_scale
from glow.errors import UsageError
from glow.networks import MADE, MLP, ResNet


def test_squeeze_puts_channel_c_dy_dx_at_4c_2dy_dx() -> None:
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    z, _ = Squeeze()(x)
    for c in range(2):
        for dy in range(2):
            for dx in range(2):
                assert torch.equal(z[0, 4 * c + 2 * dy + dx], x[0, c, dy::2, dx::2])


def test_squeeze_refuses_odd_sides() -> None:
    with pytest.raises(UsageError, match="even height and width, got 3x4"):
        Squeeze()(torch.zeros(1, 1, 3, 4))


def test_multi_scale_refuses_another_number_of_splits() -> None:
    with pytest.raises(UsageError, match="splits must be one fewer than levels, got 2 splits of 2 levels"):
        MultiScale((1, 4, 4), [Squeeze(), Squeeze()], [Composition([]), Composition([])], TopPrior(8))


def test_actnorm_standardizes() -> None:
    layer = ActNorm(3)
    x = torch.randn(64, 3, 5, 5) * torch.tensor([0.01, 1, 50]).view(3, 1, 1) + 7
    layer.initialize(x)
    z, _ = layer(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_lu_starts_as_a_rotation_and_forgets_nothing() -> None:
    layer = LUConv1x1(6)
    weight = layer.weight()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.slogdet(weight)[1], layer.log_abs_det(), atol=1e-5, rtol=0)


def test_the_dead_triangles_of_lu_do_not_matter() -> None:
    layer = LUConv1x1(4)
    weight = layer.weight().detach().clone()
    with torch.no_grad():
        layer.lower += torch.ones(4, 4).triu()
        layer.upper += torch.ones(4, 4).tril()
    torch.testing.assert_close(layer.weight(), weight)


def test_float32_round_trip_of_an_ill_conditioned_matrix() -> None:
    layer = LUConv1x1(8)
    with torch.no_grad():
        layer.logs += torch.linspace(-4, 4, 8)
        x = torch.randn(4, 8, 2, 2)
        torch.testing.assert_close(layer.inverse(layer(x)[0])[0], x, atol=2e-3, rtol=0)


def test_permutations() -> None:
    x = torch.arange(4.0).view(1, 4, 1, 1)
    assert Permutation.reverse(4)(x)[0].flatten().tolist() == [3, 2, 1, 0]
    assert sorted(Permutation.shuffle(4)(x)[0].flatten().tolist()) == [0, 1, 2, 3]


class TestAffine:
    def test_shift_and_scale_are_interleaved_and_applied_as_in_the_release(self) -> None:
        network = MLP(2, 4, 8)
        coupling = Coupling(Halves(), network, Affine())
        h = torch.tensor([[0.5, 0.0, -1.0, 3.0]])
        network.forward = lambda x, context=None: h  # type: ignore[method-assign]
        given, x = torch.tensor([[7.0, 8.0]]), torch.tensor([[2.0, 4.0]])
        scale = torch.sigmoid(torch.tensor([0.0, 3.0]) + 2)
        z, log_det = coupling(torch.cat((given, x), dim=1))
        torch.testing.assert_close(z[:, :2], given)
        torch.testing.assert_close(z[:, 2:], (x + torch.tensor([[0.5, -1.0]])) * scale)
        torch.testing.assert_close(log_det, scale.log().sum()[None])

    def test_the_lower_bound_bounds(self) -> None:
        _, log_slope = Affine(min_scale=0.25).forward(torch.zeros(1, 2), torch.full((1, 2, 2), -100.0))
        assert log_slope.sum().item() == pytest.approx(2 * math.log(0.25))

    def test_logsigmoid_does_not_overflow(self) -> None:
        _, log_slope = Affine().forward(torch.zeros(1, 2), torch.full((1, 2, 2), -200.0))
        assert log_slope.sum().item() == pytest.approx(-396)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_log_scale_without_autograd_is_that_with_it(self, dtype: torch.dtype) -> None:
        raw = torch.linspace(-200, 50, 1001, dtype=dtype)
        with torch.no_grad():
            _, found = sigmoid_scale(raw, 0.0)
        torch.testing.assert_close(found, sigmoid_scale(raw, 0.0)[1])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"scale": "sigmoyd"}, "scale='sigmoyd' is not one of sigmoid, tanh; did you mean 'sigmoid'"),
            ({"min_scale": 1.0}, r"min_scale must be in \[0, 1\)"),
            ({"min_scale": 0.1, "scale": "tanh"}, "needs scale='sigmoid'"),
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Affine(**arguments)  # type: ignore[arg-type]


def test_a_checkerboard_leaves_its_pixels_alone_though_a_sigmoid_of_zero_is_no_identity() -> None:
    for odd in (False, True):
        coupling = Coupling(Checkerboard(odd), ResNet(1, 2, 4, 1), Affine())
        x = torch.randn(2, 1, 3, 4)
        stays = (torch.arange(3)[:, None] + torch.arange(4)) % 2 == odd
        z, log_det = coupling(x)
        assert torch.equal(z[..., stays], x[..., stays])
        torch.testing.assert_close(z[..., ~stays], x[..., ~stays] * torch.sigmoid(torch.tensor(2.0)))
        torch.testing.assert_close(log_det, torch.full((2,), 6 * math.log(1 / (1 + math.exp(-2)))))


class TestRecordScales:
    def test_the_extremes_of_all_couplings_and_nothing_outside(self) -> None:
        couplings = [Coupling(Halves(swap), MLP(2, 4, 8), Affine(min_scale=0.25)) for swap in (False, True)]
        flow, x = Composition([*couplings, Coupling(Halves(), MLP(2, 2, 8), Shift())]), torch.randn(50, 4)
        flow(x)
        with record_scales(flow) as scales:
            assert scales.smallest is None
            flow(x)
            flow(2 * x)
        seen = []
        for v in (x, 2 * x):
            for coupling in couplings:
                moved = coupling.mask.moved(v)
                v, _ = coupling(v)
                h = coupling.network(coupling.mask.given(v)).unflatten(1, (2, 2))
                seen.append(coupling.elementwise.forward(moved, h)[1].exp())
        torch.testing.assert_close(scales.smallest, torch.stack(seen).amin())
        torch.testing.assert_close(scales.largest, torch.stack(seen).amax())
        before = scales.smallest
        flow(100 * x)
        assert scales.smallest is before

    def test_of_no_affine_coupling(self) -> None:
        flow = Coupling(Halves(), MLP(2, 2, 8), Shift())
        with record_scales(flow) as scales:
            flow(torch.randn(3, 4))
        assert scales.smallest is scales.largest is None


class TestNetworksOfACoupling:
    def test_a_context_reaches_the_networks_that_take_one(self) -> None:
        class Conditioned(nn.Module):
            def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
                return x + context

        x, context = torch.ones(3, 2), torch.full((3, 1), 5.0)
        assert Coupling(Halves(), Conditioned(), Shift())(x, context)[0].tolist() == [[1, 7]] * 3
        assert Coupling(Halves(), nn.Identity(), Shift())(x, context)[0].tolist() == [[1, 2]] * 3


def test_the_top_prior_of_a_class_is_that_class_s_gaussian() -> None:
    prior = TopPrior(2, context_channels=3)
    with torch.no_grad():
        prior.bias.copy_(torch.tensor([1.0, 2.0, 0.0, 0.0]))
        prior.given[:, 2] = torch.tensor([0.0, 1.0, math.log(2), 0.0])
    z = torch.randn(1, 2, 2, 2)
    eps, log_det = prior(z, torch.eye(3)[2:])
    mean, sd = torch.tensor([1.0, 3.0]).view(2, 1, 1), torch.tensor([2.0, 1.0]).view(2, 1, 1)
    normal = torch.distributions.Normal(mean, sd)
    standard = torch.distributions.Normal(0, 1)
    torch.testing.assert_close(standard.log_prob(eps).sum() + log_det[0], normal.log_prob(z).sum())


class TestSpline:
    def test_is_the_identity_at_zero_and_outside(self) -> None:
        spline = Spline(6, 2.0)
        x = torch.linspace(-3, 3, 61, dtype=torch.float64)
        z, log_slope = spline.forward(x, torch.zeros(61, spline.parameters, dtype=torch.float64))
        torch.testing.assert_close(z, x, rtol=0, atol=1e-12)
        torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)
        far = torch.tensor([-2.5, 2.5, -100.0, 100.0], dtype=torch.float64)
        z, log_slope = spline.forward(far, torch.randn(4, spline.parameters, dtype=torch.float64))
        assert torch.equal(z, far)
        assert (log_slope == 0).all()

    def test_is_continuous_and_increasing_over_its_knots_and_ends(self) -> None:
        spline = Spline(5, 1.0)
        h = torch.randn(1, spline.parameters, dtype=torch.float64).expand(40001, -1)
        x = torch.linspace(-1.2, 1.2, 40001, dtype=torch.float64)
        z, log_slope = spline.forward(x, h)
        steps = z.diff()
        assert (steps > 0).all()
        middle = 0.5 * (log_slope[1:].exp() + log_slope[:-1].exp()) * x.diff()
        torch.testing.assert_close(steps, middle, rtol=2e-2, atol=1e-7)
        back, _ = spline.inverse(z, h)
        torch.testing.assert_close(back, x, rtol=0, atol=1e-9)

    def test_where_parameters_are_zero_it_stretches_no_tails(self) -> None:
        """32 couplings one behind another, each normalized as an ActNorm does it, leave normal numbers nearly normal."""
        mixture, x = (
            LogisticMixture(8),
            torch.special.ndtri((torch.arange(9999, dtype=torch.float64) + 0.5) / 9999),
        )
        largest = x.max()
        for _ in range(32):
            x = mixture.forward(x, torch.zeros(len(x), mixture.parameters, dtype=x.dtype))[0]
            x = x / x.std()
        assert x.max() < 1.1 * largest

    def test_float32_survives_extreme_parameters(self) -> None:
        spline = Spline(8, 5.0)
        h = 30 * torch.randn(2000, spline.parameters)
        z, log_slope = spline.forward(10 * torch.rand(2000) - 5, h)
        assert z.isfinite().all()
        assert log_slope.isfinite().all()
        x, log_slope = spline.inverse(10 * torch.rand(2000) - 5, h)
        assert x.isfinite().all()
        assert log_slope.isfinite().all()


class TestLogisticMixture:
    def test_one_component_is_an_affine_map(self) -> None:
        """The logit of a logistic's distribution function is (x - mean) / scale."""
        x, h = torch.randn(50, dtype=torch.float64), torch.randn(50, 5, dtype=torch.float64)
        mixture = LogisticMixture(1)
        z, log_slope = mixture.forward(x, h)
        shift, raw, _, mean, raw_scale = h.unbind(-1)
        log_scale, scale = 3 * torch.tanh(raw_scale / 3), torch.sigmoid(raw + 2)
        torch.testing.assert_close(z, ((x - mean + mixture.SPREAD) * (-log_scale).exp() + shift) * scale)
        torch.testing.assert_close(log_slope, scale.log() - log_scale)

    def test_it_can_make_two_modes_one(self) -> None:
        """With the shares, means and scales of the data's own mixture, y is logistic."""
        mixture = LogisticMixture(2)
        start = mixture.SPREAD
        h = torch.zeros(8, dtype=torch.float64)
        h[2:] = torch.tensor([0.25, 0.75, -3 + start, 4 - start, 0, 0], dtype=torch.float64)
        h[2:4] = h[2:4].log()
        u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
        logistic = u.logit()
        x = torch.cat([logistic[::4] - 3, *[logistic[::4] + 4] * 3])
        z, _ = mixture.forward(x, h.expand(len(x), -1))
        y = z / torch.sigmoid(torch.tensor(2.0))
        middle = slice(500, 9500, 100)
        torch.testing.assert_close(y.sort().values[middle], logistic[middle], rtol=0, atol=0.02)

    def test_float32_survives_extreme_parameters(self) -> None:
        mixture = LogisticMixture(8, 0.1)
        h = 30 * torch.randn(2000, mixture.parameters)
        for function in (mixture.forward, mixture.inverse):
            values, log_slope = function(10 * torch.randn(2000), h)
            assert values.isfinite().all()
            assert log_slope.isfinite().all()

    @pytest.mark.parametrize("spread", [1, 3])
    def test_the_inverse_is_found_everywhere(self, spread: int) -> None:
        """Of normal numbers under random mixtures, of which Newton's method alone circles for some in ten thousand."""
        mixture, source = LogisticMixture(8, 0.1), torch.Generator().manual_seed(0)
        z = torch.randn(50_000, dtype=torch.float64, generator=source)
        h = spread * torch.randn(50_000, mixture.parameters, dtype=torch.float64, generator=source)
        x, log_slope = mixture.inverse(z, h)
        again, other = mixture.forward(x, h)
        torch.testing.assert_close(again, z, rtol=0, atol=1e-6)
        torch.testing.assert_close(-log_slope, other, rtol=0, atol=1e-6)

    def test_the_inverse_in_float32(self) -> None:
        mixture = LogisticMixture(8, 0.1)
        x, h = 3 * torch.randn(5000), 2 * torch.randn(5000, mixture.parameters)
        z, log_slope = mixture.forward(x, h)
        back, other = mixture.inverse(z, h)
        # A slope s takes a rounding of z to one of x that is 1 / s as large.
        assert ((back - x).abs() <= 1e-5 * (1 + z.abs()) * (1 + (-log_slope).exp())).all()
        steep = log_slope > -3
        torch.testing.assert_close(-other[steep], log_slope[steep], rtol=0, atol=1e-2)


def test_made_sees_its_neighbours_with_fewer_units_than_dimensions() -> None:
    made = MADE(100, 1, hidden=20, layers=2).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: made(x[None])[0, -1, 0], torch.randn(100).double()
    )
    assert (jacobian != 0).nonzero().max() > 70  # the last of twenty ReLUs may be off


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_made_sees_what_comes_before_and_all_of_it(backwards: bool, layers: int) -> None:
    orders = torch.arange(5)[None]
    made = MADE(5, 2, 16, layers, orders.flip(1) if backwards else orders).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    points = torch.randn(20, 5).double()  # several: a ReLU that is off hides what it would see
    jacobians = [torch.autograd.functional.jacobian(lambda x: made(x[None])[0], x) for x in points]
    sees = (torch.stack(jacobians) != 0).any(0).any(1)  # (D, D)
    before = made.orders[0][None, :] < made.orders[0][:, None]
    assert torch.equal(sees, before)
