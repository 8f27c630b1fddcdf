"""Mixtures of logistics as monotone functions of integers.

A function H from integers to finer ones, which grows at every step, is coded as a scale is: x is any of the numbers from H(x) to
H(x + 1) - 1, which one is borrowed, and its low bits are pushed. So bits are paid for the slope at every place.
"""

from functools import cache, reduce
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glow.bijections.elementwise import LARGEST_LOG_SCALE
from glow.bijections.logistic_mixture import LogisticMixture
from glow.codec.fixed import BITS
from glow.codec.ratios import SCALE_BITS, looked_up, table_points
from glow.codec.stack import CHUNKS, NotCodableError, Stack
from glow.codec.tables import exact, exp, exponential, logarithm

FINE = 2 ** (BITS + SCALE_BITS)
"""H is in units of 1/FINE."""
LEAST = 2
"""What is added to H at every step: more than rounding takes away where mixtures are flat. It is a slope of 2^-11."""
FAR = 600
"""Scales between a value and a component, at most: from there on logistics are no float64."""
SECANTS = 16
LOWEST_SHARE = -60
"""Of a component beside the largest, a logarithm."""


class Mixtures(nn.Module):
    """What a ``LogisticMixture`` does before its affine map."""

    inverse_scales: Tensor
    start: Tensor

    def __init__(self, mixture: LogisticMixture) -> None:
        super().__init__()
        k = mixture.components
        self.components = k
        ends = mixture.SPREAD
        spread = [-ends + 2 * ends * i / max(1, k - 1) for i in range(k)]
        self.register_buffer("start", torch.tensor([round(m * 2**BITS) for m in spread]))
        self.register_buffer("inverse_scales", _inverse_scales())

    def forward(self, stack: Stack, x: Tensor, h: Tensor) -> Tensor:
        """int64 (...) of a network's integers (..., 3K), both in units of 2^-BITS, to int64 (...).

        Raises:
            NotCodableError: a value too far from a component, or the stack has too few bits to borrow.
        """
        found = []
        for curve, part in zip(self._curves(h), x.flatten().tensor_split(CHUNKS), strict=True):
            if curve.is_far(part) or curve.is_far(part + 1):
                raise NotCodableError
            first = curve.at(part)
            y = first + stack.borrow(curve.at(part + 1) - first).to(x.device)
            stack.push(y & (2**SCALE_BITS - 1), 2**SCALE_BITS)
            found.append(y >> SCALE_BITS)
        return torch.cat(found).view(x.shape)

    def inverse(self, stack: Stack, z: Tensor, h: Tensor) -> Tensor:
        """The inverse of ``forward``."""
        found = []
        for curve, part in reversed(
            list(zip(self._curves(h), z.flatten().tensor_split(CHUNKS), strict=True))
        ):
            y = (part << SCALE_BITS) + stack.pop(2**SCALE_BITS, len(part)).to(z.device)
            x = curve.place_of(y)
            first = curve.at(x)
            stack.push(y - first, curve.at(x + 1) - first)
            found.append(x)
        return torch.cat(found[::-1]).view(z.shape)

    def _curves(self, h: Tensor) -> list["Curve"]:
        """Of all values, in as many turns as the stack takes."""
        logits, mean, raw = h.flatten(0, -2).T.split(self.components)
        share = exponential((logits - logits.amax(0)).double().clamp(min=LOWEST_SHARE * 2**BITS) / 2**BITS)
        fields = share, mean + self.start[:, None], looked_up(self.inverse_scales, raw)
        return [Curve(*turn) for turn in zip(*(f.tensor_split(CHUNKS, dim=1) for f in fields), strict=True)]


class Curve(NamedTuple):
    """The mixtures of N values, all (K, N), float64 but for the means, which are int64 in units of 2^-BITS."""

    share: Tensor
    """Up to a factor, which the logit has not."""
    mean: Tensor
    inverse_scale: Tensor

    def at(self, x: Tensor) -> Tensor:
        r"""H: :math:`\log \sum_k \pi_k \sigma(v_k) - \log \sum_k \pi_k \sigma(-v_k)` and a bit of x, int64 (N,)."""
        v = self._distances(x)
        small = exponential(-v.abs().clamp(max=FAR))
        large = self.share / (1 + small)
        small = large * small
        below, above = torch.where(v > 0, large, small), torch.where(v > 0, small, large)
        logit = logarithm(_sum(below)) - logarithm(_sum(above))
        return (logit * FINE).floor().long() + LEAST * x

    def is_far(self, x: Tensor) -> bool:
        """Whether a value is beyond ``FAR`` from a component."""
        return bool((self._distances(x).abs() >= FAR).any())

    def place_of(self, y: Tensor) -> Tensor:
        """The x with H(x) <= y < H(x + 1): (N,) -> (N,), int64.

        By the Illinois method (Dowell and Jarratt 1971), which halves what an end that stays is away, and bisection of what it
        left after ``SECANTS`` steps.
        """
        low, high = self._between(y)
        below, above = (self.at(low) - y).double(), (self.at(high) - y).double()
        was_low = torch.zeros_like(y, dtype=torch.bool)
        for step in count():
            width = high - low
            if not (width > 1).any():
                return low
            secant = (width * (below / (below - above))).long() if step < SECANTS else width >> 1
            x = low + secant.clamp(min=1).minimum((width - 1).clamp(min=0))
            off = (self.at(x) - y).double()
            is_low = off <= 0
            again = is_low == was_low if step else torch.zeros_like(is_low)
            below = torch.where(is_low, off, torch.where(again, below / 2, below))
            above = torch.where(is_low, torch.where(again, above / 2, above), off)
            low, high, was_low = torch.where(is_low, x, low), torch.where(is_low, high, x), is_low
        raise AssertionError

    def _distances(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.inverse_scale / 2**BITS

    def _between(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """A mixture's quantile is between those of its components; and x has its own part in H."""
        logit = y.double() / FINE
        low, high = self._quantiles(logit)
        low = self._quantiles(logit - LEAST / 2**SCALE_BITS * high.clamp(min=0))[0]
        high = self._quantiles(logit - LEAST / 2**SCALE_BITS * self._quantiles(logit)[0].clamp(max=0))[1]
        return (low * 2**BITS).floor().long() - 2, (high * 2**BITS).ceil().long() + 2

    def _quantiles(self, logit: Tensor) -> tuple[Tensor, Tensor]:
        found = self.mean.double() / 2**BITS + logit / self.inverse_scale
        return found.amin(0), found.amax(0)


@cache
def _inverse_scales() -> Tensor:
    """1/s of ``tanh_log_scale``, for raw scales in units of 2^-TABLE_BITS."""
    b = LARGEST_LOG_SCALE
    return exp(-b * exact(lambda v: 1 - 2 / ((2 * v).exp() + 1), table_points() / b))


def _sum(parts: Tensor) -> Tensor:
    """Over (K, N), one after another: a library's sums may go in another order."""
    return reduce(torch.add, parts.unbind())
