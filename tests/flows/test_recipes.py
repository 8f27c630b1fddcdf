"""The recipes."""

import math

import pytest
import torch

from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.flows import (
    IAF,
    MAF,
    NICE,
    NSF,
    Flow,
    Glow,
    MADEDensity,
    PlanarFlow,
    RadialFlow,
    RealNVP,
)
from glow.networks import MADE

from .learning import losses_of


def count(flow: torch.nn.Module) -> int:
    return sum(p.numel() for p in flow.parameters())


def test_the_paper_s_cifar10_model() -> None:
    """44 M parameters, worked out layer by layer; the latents of L=3."""
    width, depth, total, channels = 512, 32, 0, 3
    for level in range(3):
        channels *= 4
        half = channels // 2
        net = (
            (9 * half * width + 2 * width)
            + (width * width + 2 * width)
            + (9 * width * channels + 2 * channels)
        )
        total += depth * (2 * channels + (2 * channels * channels + channels) + net)
        if level < 2:
            channels //= 2
            total += 9 * channels * 2 * channels + 2 * 2 * channels
    total += 2 * channels
    with torch.device("meta"):
        flow = Glow((3, 32, 32))
    assert count(flow) == total == 44_152_272
    assert flow.latent_shapes == [(6, 16, 16), (12, 8, 8), (48, 4, 4)]


@pytest.mark.parametrize(
    ("shape", "levels"),
    [((1, 28, 28), 2), ((3, 32, 32), 3), ((1, 8, 8), 3), ((3, 64, 96), 3), ((1, 6, 4), 1)],
)
def test_levels_follow_the_image(shape: tuple[int, ...], levels: int) -> None:
    assert len(Glow(shape, depth=1, width=4).latent_shapes) == levels


@pytest.mark.parametrize("coupling", ["affine", "additive"])
@pytest.mark.parametrize("permutation", ["lu", "full", "reverse", "shuffle"])
def test_every_variant_of_glow_trains(coupling: str, permutation: str) -> None:
    flow = Glow(
        (1, 8, 8), 17, depth=2, width=8, coupling=coupling, permutation=permutation, learned_top=False
    )
    x = torch.randint(17, (16, 1, 8, 8))
    flow.initialize(x)
    losses = losses_of(flow, x)
    assert losses[-1] < losses[0] - 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"levels": 3, "event_shape": (1, 28, 28)}, "levels=3 .* 28x28 takes at most levels=2"),
        ({"event_shape": (1, 9, 8)}, "even height and width, got 9x8"),
        ({"event_shape": (2,)}, r"Glow models images \(C, H, W\), but the data has shape \(2,\)"),
        ({"depth": 0}, "depth must be an integer above zero, got 0"),
        ({"width": 1.5}, "width must be an integer above zero, got 1.5"),
        ({"levels": -1}, "levels must be an integer above zero, got -1"),
        (
            {"coupling": "afine"},
            "coupling='afine' is not one of affine, additive, mixture; did you mean 'affine'",
        ),
        ({"permutation": "rotate"}, "permutation='rotate' is not one of lu, full, reverse, shuffle"),
        ({"grey_levels": 1000}, "grey_levels must be between 2 and 256"),
        ({"class_conditional": True, "classes": None}, "needs the number of classes"),
    ],
)
def test_bad_arguments_of_glow(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Glow(**{"event_shape": (1, 8, 8), "depth": 1, "width": 4, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (8, 8)}, "RealNVP models vectors"),
        ({"event_shape": (1, 8, 8)}, "needs the number of grey_levels"),
        ({"event_shape": (1, 6, 8), "grey_levels": 17, "levels": 3}, "6x8 takes at most levels=2"),
        ({"event_shape": (1, 8, 8), "grey_levels": 17, "width": 0}, "width must be"),
        (
            {"event_shape": (1, 8, 8), "grey_levels": 17, "base": "mixture"},
            "base must be normal for RealNVP of images",
        ),
        ({"base": "gaussian"}, "base='gaussian' is not one of normal, uniform, mixture, student_t"),
        ({"base": "mixture", "components": 0}, "components must be an integer above zero"),
        ({"event_shape": (1,)}, "two or more dimensions"),
        ({"layers": 0}, "layers must be an integer above zero"),
        ({"hidden": "big"}, "hidden must be an integer above zero, got 'big'"),
    ],
)
def test_bad_arguments_of_realnvp(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RealNVP(**{"event_shape": (2,), **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", [NICE, MAF, IAF, NSF, MADEDensity])
def test_bad_arguments_of_the_others(recipe: type[Distribution]) -> None:
    for arguments, message in (
        ({"event_shape": (8, 8)}, f"{recipe.__name__} models vectors"),
        ({"event_shape": (1,)}, "two or more dimensions"),
        ({"hidden_layers": 0}, "layers must be an integer above zero"),
        ({"hidden": "big"}, "hidden must be an integer above zero, got 'big'"),
    ):
        with pytest.raises(UsageError, match=message):
            recipe(**{"event_shape": (2,), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bins": 1}, "bins must be from 2 to 500, got 1"),
        ({"bound": 0}, "bound must be a number above zero"),
    ],
)
def test_bad_arguments_of_nsf(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NSF((2,), **arguments)  # type: ignore[arg-type]


VECTORS: dict[str, tuple[type[Distribution], dict[str, object]]] = {
    "nice": (NICE, {"hidden": 32}),
    "realnvp": (RealNVP, {"hidden": 32}),
    "realnvp mixture": (RealNVP, {"hidden": 32, "base": "mixture"}),
    "realnvp student-t": (RealNVP, {"hidden": 32, "base": "student_t"}),
    "maf": (MAF, {"hidden": 32}),
    "iaf": (IAF, {"hidden": 32}),
    "nsf": (NSF, {"hidden": 32}),
    "nsf autoregressive": (NSF, {"hidden": 32, "autoregressive": True}),
    "nsf uniform": (NSF, {"hidden": 32, "base": "uniform"}),
    "planar": (PlanarFlow, {"layers": 16}),
    "planar sampling": (PlanarFlow, {"layers": 8, "direction": "sampling"}),
    "radial": (RadialFlow, {"layers": 16}),
    "made": (MADEDensity, {"hidden": 32}),
}


@pytest.mark.parametrize(("recipe", "options"), VECTORS.values(), ids=list(VECTORS))
class TestEveryFamilyOfVectors:
    def test_begins_as_the_identity(self, recipe: type[Distribution], options: dict[str, object]) -> None:
        if recipe in (NICE, RealNVP, NSF, MADEDensity) and not options.get("autoregressive"):
            pytest.skip("it does not")
        flow = recipe((3,), **options)
        x = torch.randn(5, 3)
        torch.testing.assert_close(flow.encode(x)[0], x, rtol=0, atol=1e-6)

    def test_learns(self, recipe: type[Distribution], options: dict[str, object]) -> None:
        """A parabola with noise: its entropy is that of two normals, and a normal of its covariance has 3.00 nats."""
        layers = {} if recipe is MADEDensity else {"layers": 4}
        flow = recipe((2,), **{**layers, **options})
        source = torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(flow.parameters(), 5e-3)

        def data(n: int) -> torch.Tensor:
            a, b = torch.randn(2, n, generator=source)
            return torch.stack((a, a * a + 0.3 * b), dim=1)

        flow.initialize(data(256))
        for _ in range(250):
            optimizer.zero_grad()
            (-flow.log_prob(data(256)).mean()).backward()
            optimizer.step()
        entropy = 1 + math.log(2 * math.pi) + math.log(0.3)
        nll = -flow.eval().log_prob(data(4000)).mean().item()
        allowed = {NICE: 0.35, PlanarFlow: 0.9, RadialFlow: 1.25}
        slower = 0.15 if options.get("base") == "uniform" else 0.0
        assert entropy - 0.1 < nll < entropy + allowed.get(recipe, 0.25) + slower
        axis = torch.linspace(-8, 8, 201)
        with torch.no_grad():
            across = flow.log_prob(torch.cartesian_prod(axis, torch.linspace(-6, 24, 376)))
        heavy = 0.05 if options.get("base") == "student_t" else 0.0  # of which some is outside
        assert across.exp().sum().item() * 0.08 * 0.08 == pytest.approx(1, abs=0.02 + heavy)

    def test_its_density_integrates_to_one(
        self, recipe: type[Distribution], options: dict[str, object]
    ) -> None:
        layers = {} if recipe is MADEDensity else {"layers": 2}
        flow = recipe((2,), **{**options, **layers}).double()
        flow.initialize(torch.randn(64, 2, dtype=torch.float64))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        # The axes are sinh(t): fine in the middle, and to 74.
        t = torch.linspace(-5, 5, 481, dtype=torch.float64)
        cells = t.cosh() * (t[1] - t[0])
        with torch.no_grad():
            density = flow.log_prob(torch.cartesian_prod(t.sinh(), t.sinh())).exp().view(481, 481)
        heavy = options.get("base") == "student_t"  # of which some is outside
        assert (cells @ density @ cells).item() == pytest.approx(1, abs=2e-2 if heavy else 2e-3)


@pytest.mark.parametrize(("recipe", "density", "sample"), [(MAF, 1, 5), (IAF, 5, 1)])
def test_network_passes(recipe: type[Flow], density: int, sample: int) -> None:
    """One in the fast direction, D in the other (Papamakarios et al. 2017; Kingma et al. 2016)."""
    flow = recipe((5,), layers=2, hidden=8)
    passes = []
    for module in flow.modules():
        if isinstance(module, MADE):
            module.register_forward_hook(lambda *_: passes.append(1))
    flow.log_prob(torch.randn(3, 5))
    assert len(passes) == 2 * density
    passes.clear()
    flow.sample(3)
    assert len(passes) == 2 * sample


class TestImages:
    @pytest.mark.parametrize(
        ("recipe", "options"),
        [
            (NICE, {"hidden": 32}),
            (NICE, {"hidden": 32, "base": "uniform"}),
            (RealNVP, {"width": 8, "blocks": 1}),
        ],
        ids=["nice", "nice logistic", "realnvp"],
    )
    def test_integers_come_back(self, recipe: type[Distribution], options: dict[str, object]) -> None:
        flow = recipe((1, 8, 8), grey_levels=17, **options)
        x = torch.randint(17, (6, 1, 8, 8), dtype=torch.uint8)
        flow.initialize(x)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        assert isinstance(flow, Flow)
        assert torch.equal(flow.decode(flow.encode(x)), x)
        assert flow.sample(3).shape == (3, 1, 8, 8)

    def test_the_log_det_of_realnvp_is_that_of_the_jacobian(self) -> None:
        """The whole multi-scale model at 4x4, float64."""
        flow = RealNVP((1, 4, 4), grey_levels=17, width=4, blocks=1).double()
        flow.initialize(torch.randint(17, (64, 1, 4, 4), dtype=torch.uint8))
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        assert len(flow.latent_shapes) == 3
        real = torch.randn(1, 1, 4, 4, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v)[0], real)
        expected = torch.linalg.slogdet(jacobian.view(16, 16))[1]
        torch.testing.assert_close(flow.bijection(real)[1][0], expected, rtol=1e-9, atol=1e-9)


def test_realnvp_moves_every_dimension() -> None:
    flow = RealNVP((3,), layers=2, hidden=8)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.5
    x = torch.zeros(1, 3)
    assert (flow.encode(x)[0] != x).all()
