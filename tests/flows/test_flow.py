"""Densities, samples and initialization of whole flows."""

import math

import pytest
import torch
from torch import Tensor

from glow.bijections import ActNorm, Composition, Permutation
from glow.errors import UsageError
from glow.evaluation.bits import bits_per_dim
from glow.flows import IAF, MAF, NICE, NSF, Dequantization, Flow, Glow, PlanarFlow, RadialFlow, RealNVP
from glow.fused import unfused

VECTORS = [NICE, RealNVP, NSF, MAF, IAF, PlanarFlow, RadialFlow]


def images(n: int = 8, channels: int = 1, side: int = 8, levels: int = 256) -> Tensor:
    # Not uniform noise: neighbours are alike, as in pictures.
    smooth = torch.rand(n, channels, side // 4, side // 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    return (
        (smooth * 0.7 * levels + torch.rand(n, channels, side, side) * 0.3 * levels)
        .long()
        .clamp(0, levels - 1)
    )


def randomized(flow: Flow) -> Flow:
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return flow


@pytest.fixture
def flow() -> Flow:
    return Glow((1, 8, 8), depth=2, width=8)


class TestBitsPerDim:
    @pytest.mark.parametrize("bits", [5, 8])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_closed_form_of_the_identity_flow(self, bits: int, channels: int) -> None:
        """log p is the standard normal's at x, and the level correction is D ln 2^n."""
        levels, shape = 2**bits, (channels, 2, 2)
        flow = Flow(_identity(channels), shape, Dequantization(levels))
        q = torch.randint(levels, (5, *shape))
        noise = torch.rand(5, *shape)
        x = (q / levels - 0.5 + noise / levels).double()
        dim = channels * 4
        log_normal = (-0.5 * x**2 - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
        expected = -(log_normal - dim * math.log(levels)) / (dim * math.log(2))
        actual = bits_per_dim(flow.log_prob(q, noise=noise), shape)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-6, atol=1e-6)

    def test_worked_out_by_hand(self) -> None:
        """One pixel, ActNorm with shift 1/4 and scale 2, 8 bits, grey level 128 with noise 1/2:

        x = 128.5/256 - 1/2 = 0.001953125, z = 2 (x + 0.25) = 0.50390625,
        log p = -0.5 z^2 - 0.9189385 + ln 2 = -0.3527521; bits/dim = (0.3527521 + 8 ln 2) / ln 2 = 8.508914.
        """
        layer = ActNorm(1)
        with torch.no_grad():
            layer.shift.fill_(0.25)
            layer.logs.fill_(math.log(2) / 3)
        flow = Flow(layer, (1, 1, 1), Dequantization(256)).eval()
        flow.initialized = True
        log_prob = flow.log_prob(torch.full((1, 1, 1, 1), 128), noise=torch.tensor(0.5))
        assert bits_per_dim(log_prob, (1, 1, 1)).item() == pytest.approx(8.508914, abs=2e-6)

    def test_a_uniform_model_would_cost_n_bits(self) -> None:
        """The correction alone: density 1 on the unit cube is 2^-n per level."""
        for levels in (32, 256):
            _, log_det = Dequantization(levels)(torch.zeros(1, 3, 2, 2, dtype=torch.long), torch.tensor(0.5))
            assert bits_per_dim(log_det, (3, 2, 2)).item() == pytest.approx(math.log2(levels))

    def test_probabilities_of_a_two_level_pixel_sum_to_at_most_one(self) -> None:
        """The dequantization bound never claims more probability than there is."""
        flow = Flow(_identity(1), (1, 1, 1), Dequantization(2))
        noise = torch.rand(20_000, 1, 1, 1)
        total = sum(
            flow.log_prob(torch.full((20_000, 1, 1, 1), q), noise=noise).mean().exp().item() for q in (0, 1)
        )
        exact = math.erf(0.5 / math.sqrt(2))
        assert total <= exact + 1e-3
        assert total == pytest.approx(exact, rel=0.02)


def _identity(channels: int) -> Permutation:
    return Permutation(torch.arange(channels))


class TestInitialize:
    def test_actnorm_is_standardized_through_the_whole_depth(self) -> None:
        flow = Glow((3, 16, 16), depth=4, width=16)
        x, seen = images(64, 3, 16), []
        noise = torch.rand(x.shape)
        flow.initialize(x, noise=noise)
        layers = [m for m in flow.modules() if isinstance(m, ActNorm)]
        for layer in layers:
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        with unfused(flow):
            flow.log_prob(x, noise=noise)
        assert len(seen) == 12
        for z in seen:
            torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(z.shape[1]), atol=1e-3, rtol=0)
            torch.testing.assert_close(
                z.std((0, 2, 3), correction=0), torch.ones(z.shape[1]), atol=1e-2, rtol=0
            )

    def test_training_without_it_is_refused_and_with_it_is_not(self, flow: Flow) -> None:
        with pytest.raises(UsageError, match="not initialized"):
            flow.log_prob(images())
        flow.initialize(images())
        assert torch.isfinite(flow.log_prob(images())).all()

    def test_it_is_kept_with_the_weights(self, flow: Flow) -> None:
        flow.initialize(images())
        other = Glow((1, 8, 8), depth=2, width=8)
        other.load_state_dict(flow.state_dict())
        assert other.initialized

    def test_same_batch_same_result(self) -> None:
        states = []
        for _ in range(2):
            torch.manual_seed(0)
            flow = Glow((1, 8, 8), depth=2, width=8)
            torch.manual_seed(1)
            x = images()
            torch.manual_seed(len(states))
            flow.initialize(x, noise=torch.full(x.shape, 0.5))
            states.append(flow.state_dict())
        for name in (n for n in states[0] if "extra" not in n):
            assert torch.equal(states[0][name], states[1][name]), name

    def test_a_failed_one_does_not_count(self, flow: Flow) -> None:
        with pytest.raises(UsageError):
            flow.initialize(torch.rand(4, 1, 8, 8))
        assert not flow.initialized

    def test_flows_without_such_layers_need_none(self) -> None:
        assert RealNVP((2,)).initialized


class TestEncodeDecode:
    def test_images_come_back_to_the_last_grey_level(self) -> None:
        x = images()
        flow = Glow((1, 8, 8), depth=2, width=8, min_scale=0.1)
        flow.initialize(x)
        randomized(flow).eval()
        latents = flow.encode(x)
        assert [tuple(z.shape[1:]) for z in latents] == flow.latent_shapes
        assert torch.equal(flow.decode(latents), x.to(torch.uint8))

    def test_vectors_come_back(self) -> None:
        flow = randomized(RealNVP((3,), layers=4, hidden=8)).double()
        x = torch.randn(5, 3).double()
        torch.testing.assert_close(flow.decode(flow.encode(x)), x)

    def test_latents_and_log_det_give_log_prob(self, flow: Flow) -> None:
        x, noise = images(), torch.rand(8, 1, 8, 8)
        flow.initialize(x)
        z, log_det = flow.bijection(flow.dequantization(x, noise)[0])
        normal = torch.distributions.Normal(0, 1)
        expected = normal.log_prob(z).sum(1) + log_det - 64 * math.log(256)
        torch.testing.assert_close(flow.log_prob(x, noise=noise), expected)

    def test_float64_stays_float64(self, flow: Flow) -> None:
        flow.double().initialize(images())
        assert flow.log_prob(images()).dtype == torch.float64


class TestSample:
    def test_shape_type_and_repeatability(self, flow: Flow) -> None:
        flow.initialize(images())
        flow.eval()
        draws = [flow.sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
        assert draws[0].shape == (5, 1, 8, 8)
        assert draws[0].dtype == torch.uint8
        assert torch.equal(*draws)

    def test_temperature_scales_every_latent(self) -> None:
        flow = Flow(Composition([_identity(2)]), (2,))
        flow.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
        one, half = (
            flow.sample(1000, temperature=t, generator=torch.Generator().manual_seed(0)) for t in (1.0, 0.5)
        )
        torch.testing.assert_close(half, 0.5 * one)

    @pytest.mark.parametrize("temperature", [-1.0, float("nan"), "hot"])
    def test_bad_temperatures(self, flow: Flow, temperature: object) -> None:
        with pytest.raises(UsageError, match="temperature must be a number of at least zero"):
            flow.sample(1, temperature=temperature)  # type: ignore[arg-type]

    def test_bad_n(self, flow: Flow) -> None:
        with pytest.raises(UsageError, match="n must be an integer of at least zero, got -1"):
            flow.sample(-1)

    def test_temperature_zero_is_the_image_of_the_mode(self, flow: Flow) -> None:
        flow.initialize(images())
        flow.eval()
        x = flow.sample(3, temperature=0)
        zeros = [torch.zeros(3, *shape) for shape in flow.latent_shapes]
        assert torch.equal(x, flow.decode(zeros))
        assert torch.equal(x[0], x[1])

    def test_latents_are_drawn_scale_by_scale(self, flow: Flow) -> None:
        source = torch.Generator().manual_seed(3)
        expected = [torch.randn(5, *shape, generator=source) for shape in flow.latent_shapes]
        for a, b in zip(
            flow.sample_latents(5, generator=torch.Generator().manual_seed(3)), expected, strict=True
        ):
            assert torch.equal(a, b)


class TestEmptyBatches:
    @pytest.mark.parametrize("recipe", [Glow, RealNVP])
    def test_of_images(self, recipe: type[Flow]) -> None:
        flow = recipe((1, 8, 8), grey_levels=256, width=8)
        flow.initialize(images())
        x = images()[:0]
        assert flow.log_prob(x).shape == (0,)
        latents = flow.encode(x)
        assert [tuple(z.shape) for z in latents] == [(0, *shape) for shape in flow.latent_shapes]
        assert flow.decode(latents).shape == flow.eval().sample(0).shape == (0, 1, 8, 8)
        assert flow.unflatten(flow.flatten(latents))[0].shape == latents[0].shape

    @pytest.mark.parametrize("recipe", VECTORS)
    def test_of_vectors(self, recipe: type[Flow]) -> None:
        flow = recipe((3,)).eval()
        x = torch.zeros(0, 3)
        assert flow.log_prob(x).shape == (0,)
        assert flow.decode(flow.encode(x)).shape == flow.sample(0).shape == (0, 3)


def test_noise_comes_from_the_generator_that_is_given(flow: Flow) -> None:
    flow.initialize(images())
    x = images()
    first, again = (flow.log_prob(x, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    noise = flow.noise(len(x), torch.Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert torch.equal(first, flow.log_prob(x, noise=noise))
    assert not torch.equal(first, flow.log_prob(x))


def test_one_vector_per_element_and_back(flow: Flow) -> None:
    flow.initialize(images())
    latents = flow.encode(images())
    z = flow.flatten(latents)
    assert z.shape == (8, 64)
    assert torch.equal(z[:, : latents[0][0].numel()], latents[0].flatten(1))
    for a, b in zip(flow.unflatten(z), latents, strict=True):
        assert torch.equal(a, b)


class TestLabels:
    @pytest.fixture
    def conditional(self) -> Flow:
        flow = Glow((1, 8, 8), depth=1, width=8, class_conditional=True, classes=3)
        flow.initialize(images(), torch.arange(8) % 3)
        with torch.no_grad():
            flow.bijection.top.given.normal_()
        return flow.eval()

    def test_they_matter(self, conditional: Flow) -> None:
        x, noise = images(), torch.tensor(0.5)
        zero, one = (conditional.log_prob(x, torch.full((8,), k), noise) for k in (0, 1))
        assert not torch.allclose(zero, one)

    def test_samples_of_one_label_and_of_each(self, conditional: Flow) -> None:
        def draw(y: Tensor | int | None) -> Tensor:
            return conditional.sample(3, y=y, generator=torch.Generator().manual_seed(0))

        each = draw(torch.tensor([0, 1, 2]))
        assert torch.equal(draw(1)[1], each[1])
        assert not torch.equal(draw(0)[1], each[1])
        assert draw(None).shape == (3, 1, 8, 8)

    @pytest.mark.parametrize(
        "y",
        [torch.tensor([0] * 7 + [3]), torch.tensor([-2] * 8), torch.zeros(8), torch.zeros(3).long()],
    )
    def test_bad_ones(self, conditional: Flow, y: Tensor) -> None:
        with pytest.raises(UsageError, match="y must be one integer label from 0 to 2"):
            conditional.log_prob(images(), y)

    def test_none_is_the_density_without_labels(self, conditional: Flow) -> None:
        x, noise = images(), torch.tensor(0.5)
        without = conditional.log_prob(x, None, noise)
        assert torch.equal(without, conditional.log_prob(x, torch.full((8,), -1), noise))
        conditional.bijection.top.given.data.zero_()  # type: ignore[union-attr]
        torch.testing.assert_close(without, conditional.log_prob(x, torch.arange(8) % 3, noise))

    def test_labels_for_a_flow_without_classes(self, flow: Flow) -> None:
        with pytest.raises(UsageError, match="not class-conditional"):
            flow.sample(2, y=1)


def test_a_wrong_shape_is_named(flow: Flow) -> None:
    with pytest.raises(UsageError, match=r"x must have shape \(B, 1, 8, 8\), got \(2, 3, 8, 8\)"):
        flow.eval().log_prob(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))


def test_an_untrained_2d_density_integrates_to_one() -> None:
    flow = randomized(RealNVP((2,), layers=4, hidden=16)).double()
    axis = torch.linspace(-8, 8, 401).double()
    points = torch.cartesian_prod(axis, axis)
    total = flow.log_prob(points).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=1e-4)
