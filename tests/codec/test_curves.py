"""Mixtures of logistics on integers: monotone whatever the parameters, near what they stand for, and undone."""

from __future__ import annotations

import math

import pytest
import torch

from glow.bijections import LogisticMixture
from glow.codec.curves import FINE, Mixtures
from glow.codec.fixed import BITS
from glow.codec.stack import NotCodableError
from glow.codec.tables import exponential, logarithm

from .test_stack import full


def parameters(n: int, components: int, size: float) -> torch.Tensor:
    return (torch.randn(n, 3 * components) * size * 2**BITS).long()


@pytest.mark.parametrize("size", [0.0, 1.0, 10.0])
def test_curves_grow_at_every_step_and_are_those_of_the_flow(size: float) -> None:
    mixture = LogisticMixture(components=4)
    h = parameters(1, 4, size).expand(20_001, -1)
    x = torch.arange(-10_000, 10_001) * 20 + torch.randint(20, (1,))
    curve = Mixtures(mixture)._curves(h.contiguous())[0]
    x = x[: curve.share.shape[1]]
    first, after = curve.at(x), curve.at(x + 1)
    assert (after > first).all()
    real = torch.cat((torch.zeros(len(x), 2), h[: len(x)] / 2**BITS), dim=1).double()
    expected = mixture._mixture(real).logit(x.double() / 2**BITS)[0] + x * 2 / FINE  # type: ignore[operator]
    torch.testing.assert_close(first.double() / FINE, expected, atol=5e-3, rtol=2e-3)
    assert torch.equal(curve.place_of(first), x)
    assert torch.equal(curve.place_of(after - 1), x)


@pytest.mark.parametrize("size", [0.0, 1.0, 10.0])
def test_what_goes_in_comes_out(size: float) -> None:
    mixtures, stack = Mixtures(LogisticMixture(components=4)), full(40_000)
    words, x, h = (
        stack.words(),
        torch.randint(-(2**17), 2**17, (3, 2, 50)),
        parameters(300, 4, size).view(3, 2, 50, -1),
    )
    z = mixtures(stack, x, h)
    assert not torch.equal(z, x)
    assert torch.equal(mixtures.inverse(stack, z, h), x)
    assert (stack.words() == words).all()


def test_values_that_are_too_far_are_refused() -> None:
    with pytest.raises(NotCodableError):
        Mixtures(LogisticMixture(components=2))(full(), torch.tensor([2**40]), parameters(1, 2, 0.0))


def test_functions_of_numbers() -> None:
    v = torch.cat((torch.linspace(-700, 700, 9_999), torch.tensor([0.0, math.log(2)]))).double()
    torch.testing.assert_close(exponential(v), v.exp(), rtol=1e-8, atol=0)
    torch.testing.assert_close(logarithm(v.exp()), v, rtol=0, atol=1e-8)
