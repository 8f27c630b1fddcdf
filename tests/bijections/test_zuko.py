"""The same maps by zuko, an independent implementation, as an oracle."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Transform
from zuko.distributions import DiagNormal, NormalizingFlow
from zuko.transforms import (
    AutoregressiveTransform,
    ComposedTransform,
    CouplingTransform,
    DependentTransform,
    MonotonicRQSTransform,
)

from glow.bijections import Affine, Autoregressive, Bijection, Coupling, Halves, Spline
from glow.flows import MAF, Flow, RealNVP
from glow.networks import MADE

EXACT = {"atol": 1e-9, "rtol": 0.0}


def parameters_of(theirs: MonotonicRQSTransform, bound: float) -> Tensor:
    """Its knots and slopes, K bins, as the 3K - 1 numbers from which our ``Spline`` makes the same ones."""
    knots = (theirs.horizontal, theirs.vertical)
    # A softmax gives back what it is given the logarithm of, here all but the share that every bin has anyway.
    shares = [(k.diff() / (2 * bound) - Spline.SMALLEST).log() for k in knots]
    inverse_softplus = (theirs.derivatives - Spline.SMALLEST).expm1().log()
    # The slopes at both ends are one, which is our zero.
    return torch.cat((*shares, inverse_softplus[..., 1:-1] - inverse_softplus[..., :1]), -1)


def compare(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    """Values and logarithms of slopes or determinants."""
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize(("bins", "bound"), [(2, 1.0), (8, 5.0), (30, 3.0)])
def test_spline(bins: int, bound: float) -> None:
    n = 300
    raw = torch.randn(n, 3 * bins - 1, dtype=torch.float64)
    theirs = MonotonicRQSTransform(*raw.split([bins, bins, bins - 1], -1), bound=bound)
    ours, h = Spline(bins, bound), parameters_of(theirs, bound)
    inside = (2 * torch.rand(n, dtype=torch.float64) - 1) * bound
    outside = (bound + torch.rand(n, dtype=torch.float64)) * torch.randn(n).sign()
    for x in (inside, outside, *theirs.horizontal.unbind(-1)):
        compare(ours.forward(x, h), theirs.call_and_ladj(x))
    for z in (inside, outside, *theirs.vertical.unbind(-1)):
        compare(ours.inverse(z, h), theirs.inv.call_and_ladj(z))


def their_affine(h: Tensor) -> Transform:
    """Our (x + t) s with log s = 3 tanh(h / 3), from (..., 2), as x s + t s."""
    scale = (3 * torch.tanh(h[..., 1] / 3)).exp()
    return DependentTransform(AffineTransform(h[..., 0] * scale, scale), 1)


def their_autoregressive(ours: Autoregressive, dimensions: int) -> Transform:
    return AutoregressiveTransform(lambda x: their_affine(ours.network(x)), passes=dimensions)


def their_coupling(ours: Coupling, dimensions: int) -> Transform:
    """Even couplings keep the first half, odd ones the second."""
    kept = (torch.arange(dimensions) < dimensions // 2) ^ (ours.mask == Halves(swap=True))
    return CouplingTransform(lambda given: their_affine(ours.network(given).unflatten(-1, (-1, 2))), kept)


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """In float64, with weights that are far from the identity at which our maps start."""
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.4 * torch.randn_like(p))
    return module.double().eval()


@pytest.mark.parametrize("order", [[0, 1], [1, 0], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]])
def test_affine_autoregressive(order: list[int]) -> None:
    d = len(order)
    ours = shaken(Autoregressive(MADE(d, 2, 16, orders=torch.tensor([order])), Affine("tanh")))
    theirs = their_autoregressive(ours, d)
    x = torch.randn(50, d, dtype=torch.float64)
    compare(ours(x), theirs.call_and_ladj(x))
    compare(ours.inverse(x), theirs.inv.call_and_ladj(x))


@pytest.mark.parametrize("dimensions", [2, 5])
@pytest.mark.parametrize(("family", "translate"), [(MAF, their_autoregressive), (RealNVP, their_coupling)])
def test_flow(
    family: Callable[..., Flow], translate: Callable[[Bijection, int], Transform], dimensions: int
) -> None:
    ours = shaken(family([dimensions], layers=3, hidden=16))
    zeros = torch.zeros(dimensions, dtype=torch.float64)
    steps = ComposedTransform(*(translate(step, dimensions) for step in ours.bijection.steps))
    theirs = NormalizingFlow(steps, DiagNormal(zeros, zeros + 1))
    x = torch.randn(50, dimensions, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), **EXACT)
    [z] = ours.encode(x)
    torch.testing.assert_close(ours.decode([z]), steps.inv(z), **EXACT)
