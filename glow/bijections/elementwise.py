"""Invertible functions of one number, given their parameters: what couplings and autoregressive maps apply."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.errors import UsageError, check_positive


class Elementwise(ABC):
    """A monotone function with ``parameters`` numbers per element; zeros make it the identity."""

    parameters: int

    @abstractmethod
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x (...) under h (..., parameters) -> z (...), log dz/dx (...)."""

    @abstractmethod
    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse: x (...), log dx/dz (...)."""


LARGEST_LOG_SCALE = 3.0


def tanh_log_scale(raw: Tensor) -> Tensor:
    r""":math:`\log s = b \tanh(h / b)` with b = 3: a scale that is bounded in both directions."""
    return LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)


class Affine(Elementwise):
    """:math:`z = (x + t) s` with the log-scale of ``tanh_log_scale``."""

    parameters = 2

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """(x + t) s, log s."""
        shift, log_scale = self._from(h)
        return (x + shift) * log_scale.exp(), log_scale

    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Z / s - t, -log s."""
        shift, log_scale = self._from(h)
        return z * (-log_scale).exp() - shift, -log_scale

    def _from(self, h: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = h.unbind(-1)
        return shift, tanh_log_scale(raw)


class Spline(Elementwise):
    """Monotone rational-quadratic splines on [-bound, bound], the identity outside (Durkan et al. 2019, section 3.1).

    Args:
        bins: K; there are 3K - 1 parameters: K widths, K heights, K - 1 slopes at the knots inside.
        bound: half the length of the interval.
    """

    SMALLEST = 1e-3
    """Of a bin's width and height, as fractions of the interval, and of a slope."""

    def __init__(self, bins: int = 8, bound: float = 5.0) -> None:
        check_positive("bins", bins, integer=True)
        check_positive("bound", bound)
        if not 2 <= bins <= 500:
            raise UsageError(f"bins must be from 2 to 500, got {bins}")
        self.bins, self.bound = bins, bound
        self.parameters = 3 * bins - 1

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Equations 4 and 5."""
        inside, (x0, y0, w, s, d0, d1) = self._bin(x, h, 0)
        t = (x.clamp(-self.bound, self.bound) - x0) / w
        z = y0 + s * w * (s * t * t + d0 * t * (1 - t)) / (s + (d1 + d0 - 2 * s) * t * (1 - t))
        return torch.where(inside, z, x), torch.where(inside, _log_slope(t, s, d0, d1), 0.0)

    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Equations 6 to 8: the root of a quadratic that lies in the bin."""
        inside, (x0, y0, w, s, d0, d1) = self._bin(z, h, 1)
        y = z.clamp(-self.bound, self.bound) - y0
        common = y * (d1 + d0 - 2 * s)
        a, b, c = s * w * (s - d0) + common, s * w * d0 - common, -s * y
        t = 2 * c / (-b - (b * b - 4 * a * c).clamp(min=0).sqrt())
        return torch.where(inside, t * w + x0, z), torch.where(inside, -_log_slope(t, s, d0, d1), 0.0)

    def _bin(self, v: Tensor, h: Tensor, side: int) -> tuple[Tensor, list[Tensor]]:
        """Whether v is in the interval, and of its bin: both left ends, width, mean slope, slopes at the ends."""
        widths, heights, slopes = h.split([self.bins, self.bins, self.bins - 1], dim=-1)
        knots = [self._knots(widths), self._knots(heights)]
        # Zero gives slope one, as at the ends, where the identity begins.
        one = math.log(math.expm1(1 - self.SMALLEST))
        slopes = F.pad(self.SMALLEST + F.softplus(slopes + one), (1, 1), value=1.0)
        inner = knots[side][..., 1:-1].contiguous()
        k = torch.searchsorted(inner, v[..., None].contiguous(), right=True)

        def at(t: Tensor, i: Tensor) -> Tensor:
            return t.gather(-1, i)[..., 0]

        x0, x1, y0, y1 = (at(t, i) for t in knots for i in (k, k + 1))
        mean = (y1 - y0) / (x1 - x0)
        return v.abs() < self.bound, [x0, y0, x1 - x0, mean, at(slopes, k), at(slopes, k + 1)]

    def _knots(self, raw: Tensor) -> Tensor:
        """K numbers per element -> K + 1 increasing knots from -bound to bound."""
        share = self.SMALLEST + (1 - self.SMALLEST * self.bins) * raw.softmax(-1)
        inner = 2 * self.bound * share.cumsum(-1)[..., :-1] - self.bound
        return F.pad(F.pad(inner, (1, 0), value=-self.bound), (0, 1), value=self.bound)


def _log_slope(t: Tensor, s: Tensor, d0: Tensor, d1: Tensor) -> Tensor:
    """Equation 5, its logarithm."""
    rest = t * (1 - t)
    above = s * s * (d1 * t * t + 2 * s * rest + d0 * (1 - t) ** 2)
    return above.log() - 2 * (s + (d1 + d0 - 2 * s) * rest).log()
