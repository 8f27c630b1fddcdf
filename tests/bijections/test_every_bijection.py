"""What must hold of every bijection, checked on every one of them in float64."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from glow.bijections import (
    ActNorm,
    Affine,
    Autoregressive,
    Bijection,
    Checkerboard,
    Composition,
    Continuous,
    Coupling,
    Elementwise,
    Flatten,
    FullConv1x1,
    Gaussianize,
    Halves,
    Inverse,
    LogisticMixture,
    LUConv1x1,
    MultiScale,
    Permutation,
    Planar,
    Radial,
    Repeated,
    Residual,
    Scale,
    Shift,
    Sigmoid,
    Spline,
    SplitPrior,
    Squeeze,
    Sylvester,
    TopPrior,
)
from glow.bijections.amortized import Amortized
from glow.fused import FusedLevel
from glow.networks import MADE, MLP, ConvNet, LipschitzMLP, ResNet, Velocity, ZeroConv2d

CHANNELS = 4


def image_net(given: int, out: int) -> nn.Module:
    return ConvNet(given, out, width=8)


@dataclass
class Case:
    make: Callable[[], Bijection]
    shape: tuple[int, ...] = (CHANNELS, 2, 2)
    context: Callable[[int], Tensor] | None = None
    grey: bool = False
    """Whether the inputs are in [-1/2, 1/2)."""


def affine(
    network: nn.Module, swap: bool = False, scale: str = "sigmoid", min_scale: float = 0.0
) -> Coupling:
    return Coupling(Halves(swap), network, Affine(scale, min_scale))


def spline(network: nn.Module, function: Elementwise, swap: bool = False) -> Coupling:
    return Coupling(Halves(swap), network, function)


def additive(network: nn.Module, swap: bool = False) -> Coupling:
    return Coupling(Halves(swap), network, Shift())


def glow_steps() -> list[Bijection]:
    return [Composition([ActNorm(CHANNELS), LUConv1x1(CHANNELS), affine(image_net(2, 4))]) for _ in range(2)]


def conditioned_steps() -> list[Bijection]:
    def network() -> nn.Module:
        return ConvNet(2, 4, width=8, size=(2, 2), position=True, context_channels=3)

    return [Composition([ActNorm(CHANNELS), LUConv1x1(CHANNELS), affine(network())]) for _ in range(2)]


def gaussianize(network: nn.Module | None = None) -> Bijection:
    layer = Gaussianize(2, 5, network).double()
    layer.initialize(torch.empty(0), torch.tensor([[900, 50, 0, 20, 30], [1, 2, 3, 4, 5]]))
    return layer


def multiscale() -> Bijection:
    def level(channels: int) -> Bijection:
        half = channels // 2
        return Composition(
            [Squeeze(), ActNorm(channels), LUConv1x1(channels), affine(image_net(half, 2 * half))]
        )

    return MultiScale(
        (1, 4, 4), [level(4), level(8)], [SplitPrior(ZeroConv2d(2, 4))], TopPrior(8, context_channels=3)
    )


def realnvp() -> Bijection:
    def scale(channels: int, *then: Bijection) -> Bijection:
        boards = [
            Coupling(Checkerboard(odd), ResNet(channels, 2 * channels, 4, 1), Affine("tanh"))
            for odd in (False, True)
        ]
        return Composition([*boards, *then])

    squeezed = affine(ResNet(2, 4, 4, 1), scale="tanh")
    return MultiScale(
        (1, 4, 4), [scale(1, Squeeze(), squeezed), scale(2)], [Composition([])], Composition([])
    )


def autoregressive(
    dimensions: int, elementwise: Elementwise, order: tuple[int, ...] | None = None, context: int = 0
) -> Autoregressive:
    orders = None if order is None else torch.tensor([order])
    network = MADE(dimensions, elementwise.parameters, 8, orders=orders, context=context)
    return Autoregressive(network, elementwise)


def labels(n: int) -> Tensor:
    return torch.eye(3, dtype=torch.float64)[torch.arange(n) % 3]


def numbers(n: int) -> Tensor:
    return torch.randn(n, 3, dtype=torch.float64)


CASES: dict[str, Case] = {
    "actnorm": Case(lambda: ActNorm(CHANNELS)),
    "actnorm of vectors": Case(lambda: ActNorm(3), (3,)),
    "lu": Case(lambda: LUConv1x1(CHANNELS)),
    "lu of vectors": Case(lambda: LUConv1x1(5), (5,)),
    "full 1x1": Case(lambda: FullConv1x1(CHANNELS)),
    "reverse": Case(lambda: Permutation.reverse(CHANNELS)),
    "shuffle": Case(lambda: Permutation.shuffle(CHANNELS)),
    "squeeze": Case(Squeeze),
    "additive": Case(lambda: additive(image_net(2, 2))),
    "additive swapped": Case(lambda: additive(image_net(2, 2), swap=True)),
    "affine sigmoid": Case(lambda: affine(image_net(2, 4))),
    "affine sigmoid bounded": Case(lambda: affine(image_net(2, 4), min_scale=0.1)),
    "affine tanh of vectors": Case(lambda: affine(MLP(2, 4, 8), scale="tanh"), (4,)),
    "affine tanh, odd, swapped": Case(lambda: affine(MLP(3, 4, 8), swap=True, scale="tanh"), (5,)),
    "spline coupling": Case(lambda: spline(MLP(2, 2 * 14, 8), Spline(5, 1.5)), (4,)),
    "spline coupling swapped": Case(lambda: spline(MLP(3, 2 * 8, 8), Spline(3), swap=True), (5,)),
    "mixture coupling": Case(lambda: spline(MLP(2, 2 * 11, 8), LogisticMixture(3)), (4,)),
    "mixture coupling of images": Case(lambda: spline(image_net(2, 28), LogisticMixture(4, 0.1))),
    "mixture autoregressive": Case(lambda: autoregressive(3, LogisticMixture(2)), (3,)),
    "affine autoregressive": Case(lambda: autoregressive(4, Affine("tanh")), (4,)),
    "spline autoregressive, backwards": Case(lambda: autoregressive(3, Spline(4, 2.0), (2, 1, 0)), (3,)),
    "inverse autoregressive": Case(lambda: Inverse(autoregressive(3, Affine("tanh"))), (3,)),
    "affine autoregressive, other order": Case(lambda: autoregressive(4, Affine("tanh"), (2, 0, 3, 1)), (4,)),
    "autoregressive with context": Case(lambda: autoregressive(4, Affine("tanh"), context=3), (4,), numbers),
    "coupling with context": Case(lambda: affine(MLP(2, 4, 8, context=3), scale="tanh"), (4,), numbers),
    "checkerboard affine": Case(lambda: Coupling(Checkerboard(), ResNet(2, 4, 4), Affine("tanh")), (2, 4, 4)),
    "checkerboard sigmoid": Case(lambda: Coupling(Checkerboard(), ResNet(1, 2, 4), Affine()), (1, 3, 4)),
    "checkerboard spline, swapped": Case(
        lambda: Coupling(Checkerboard(odd=True), ResNet(1, 11, 4, 1), Spline(4)), (1, 3, 4)
    ),
    "planar": Case(lambda: Planar(3), (3,)),
    "planar with context": Case(lambda: Planar(4, 3), (4,), numbers),
    "sylvester": Case(lambda: Sylvester(4, 3), (4,)),
    "sylvester with context": Case(lambda: Sylvester(3, 3, 3), (3,), numbers),
    "radial": Case(lambda: Radial(3), (3,)),
    "continuous": Case(lambda: Continuous(Velocity(3, 4, 1), "rk4", steps=50), (3,)),
    "residual": Case(lambda: Residual(LipschitzMLP(3, 8, 2)), (3,)),
    "sigmoid": Case(Sigmoid, (4,)),
    "flatten": Case(lambda: Flatten((3, 3, 2)), (3, 3, 2)),
    "realnvp of images": Case(realnvp, (1, 4, 4)),
    "diagonal scale": Case(lambda: Scale(3), (3,)),
    "split prior": Case(
        lambda: SplitPrior(ZeroConv2d(CHANNELS, 2 * CHANNELS)),
        context=lambda n: torch.randn(n, CHANNELS, 2, 2, dtype=torch.float64),
    ),
    "top prior": Case(lambda: TopPrior(CHANNELS)),
    "top prior with context": Case(lambda: TopPrior(CHANNELS, context_channels=3), context=labels),
    "top prior per pixel": Case(lambda: TopPrior(CHANNELS, True, 3, (2, 2)), context=labels),
    "gaussianize": Case(gaussianize, (2, 2, 3), grey=True),
    "gaussianize, its noise by a network": Case(
        lambda: gaussianize(nn.Conv2d(2, 4, 3, padding=1)), (2, 2, 3), grey=True
    ),
    "composition": Case(lambda: Composition([ActNorm(CHANNELS), Squeeze(), LUConv1x1(4 * CHANNELS)])),
    "repeated": Case(lambda: Repeated(glow_steps())),
    "repeated of another kind": Case(
        lambda: Repeated([spline(MLP(2, 22, 8), Spline(4)) for _ in range(3)]), (4,)
    ),
    "repeated with context": Case(
        lambda: Repeated([affine(MLP(2, 4, 8, context=3), scale="tanh") for _ in range(3)]), (4,), numbers
    ),
    "fused level": Case(lambda: FusedLevel(glow_steps())),
    "fused level, position and context": Case(lambda: FusedLevel(conditioned_steps()), context=labels),
    "repeated, position and context": Case(lambda: Repeated(conditioned_steps()), context=labels),
    "multi-scale": Case(multiscale, (1, 4, 4), labels),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def made(case: Case) -> Bijection:
    """The module in float64, its parameters moved away from the identity that most start at."""
    module = case.make().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def inputs(case: Case, n: int = 3) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(n, *case.shape, dtype=torch.float64)
    return torch.special.ndtr(x) - 0.5 if case.grey else x, case.context(n) if case.context else None


def test_round_trip(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    z, log_det = module(x, context)
    back, inverse_log_det = module.inverse(z, context)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)


def test_log_det_is_that_of_the_autograd_jacobian(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    _, log_det = module(x, context)
    for i in range(len(x)):
        one = None if context is None else context[i : i + 1]

        def f(v: Tensor, one: Tensor | None = one) -> Tensor:
            return module(v.view(1, *case.shape), one)[0].flatten(1)[0]

        jacobian = torch.autograd.functional.jacobian(f, x[i].flatten())
        expected = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(log_det[i], expected, rtol=1e-8, atol=1e-8)


def test_an_empty_batch_goes_through(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    none = None if context is None else context[:0]
    z, log_det = module(x[:0], none)
    back, inverse_log_det = module.inverse(z, none)
    assert z.shape == (0, *module.output_shape(case.shape))
    assert (back.shape, log_det.shape, inverse_log_det.shape) == ((0, *case.shape), (0,), (0,))


def test_the_parts_one_after_another_are_the_whole(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    z, log_det = module(x, context)
    parts, latents, v, total = list(module.parts()), [], x, torch.zeros(len(x))
    assert len({part.name for part in parts}) == len(parts)
    for part in parts:
        v, own = part.forward(v, context, latents)
        total = total + own
    latents.append(v)
    torch.testing.assert_close(torch.cat([t.flatten(1) for t in latents], dim=1), z.flatten(1))
    torch.testing.assert_close(total, log_det)
    assert [tuple(t.shape[1:]) for t in latents] == module.latent_shapes(case.shape)
    v = latents.pop()
    for part in reversed(parts):
        v, own = part.inverse(v, context, latents)
        total = total + own
    torch.testing.assert_close(v, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-9)


def test_gradients_reach_every_parameter(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    z, log_det = module(x.requires_grad_(), context)
    (z.flatten(1).square().sum() + log_det.sum()).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_of_the_inverse_reach_every_parameter(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    z, _ = module(x, context)
    z = z.detach().requires_grad_()
    back, log_det = module.inverse(z, context)
    (back.pow(3).sum() + log_det.sum()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_elements_of_a_batch_are_independent(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    z, log_det = module(x, context)
    for i in range(len(x)):
        alone, alone_log_det = module(x[i : i + 1], None if context is None else context[i : i + 1])
        torch.testing.assert_close(alone.flatten(1)[0], z.flatten(1)[i])
        torch.testing.assert_close(alone_log_det[0], log_det[i])


def test_shapes(case: Case) -> None:
    module, (x, context) = made(case), inputs(case)
    z, log_det = module(x, context)
    assert log_det.shape == (len(x),)
    assert tuple(z.shape[1:]) == module.output_shape(case.shape)
    assert sum(map(math.prod, module.latent_shapes(case.shape))) == math.prod(case.shape)
    assert z.flatten(1).shape == (len(x), math.prod(case.shape))


def test_state_dict_round_trip(case: Case) -> None:
    first, second = made(case), made(case)
    x, context = inputs(case)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(x, context)[0], first(x, context)[0], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_leaves_the_algebra_in_its_dtype(case: Case, dtype: torch.dtype) -> None:
    """With coupling networks that ignore autocast, bf16 autocast changes nothing at all."""
    if isinstance(case.make(), FusedLevel):
        pytest.skip("it does not call its networks; see test_level.py")
    module, (x, context) = made(case).to(dtype), inputs(case)
    x = x.to(dtype)
    context = context.to(dtype) if context is not None and context.is_floating_point() else context
    for sub in module.modules():
        if isinstance(sub, (Coupling, Autoregressive, Gaussianize)) and sub.network is not None:
            sub.network.forward = partial(_without_autocast, sub.network.forward)  # type: ignore[method-assign]
        if isinstance(sub, Amortized) and sub.amortized is not None:
            sub.amortized.forward = partial(_without_autocast, sub.amortized.forward)  # type: ignore[method-assign]
    z, log_det = module(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z16, log_det16 = module(x, context)
        back, _ = module.inverse(z16, context)
    assert z16.flatten(1).dtype == log_det16.dtype == back.dtype == dtype
    torch.testing.assert_close(z16.flatten(1), z.flatten(1), rtol=0, atol=0)
    torch.testing.assert_close(log_det16, log_det, rtol=0, atol=0)


def _without_autocast(forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(*inputs)
