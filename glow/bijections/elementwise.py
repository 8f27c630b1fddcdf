"""Invertible functions of one number, given their parameters: what couplings and autoregressive maps apply."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.errors import UsageError, check_choice, check_positive


class Elementwise(ABC):
    """A monotone function of one number, with ``parameters`` numbers that decide which."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many."""

    @abstractmethod
    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x (...) under h (..., parameters) -> z (...), log dz/dx (...)."""

    @abstractmethod
    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse: x (...), log dx/dz (...)."""


@dataclass(frozen=True)
class Shift(Elementwise):
    """:math:`z = x + t`, volume preserving."""

    parameters = 1

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x + h[..., 0], torch.zeros_like(x)

    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return z - h[..., 0], torch.zeros_like(z)


@dataclass(frozen=True)
class Affine(Elementwise):
    r""":math:`z = (x + t) s`, with t and a raw scale h as parameters. The scale is one of

    - ``"sigmoid"`` (Glow): :math:`s = m + (1 - m) \, \sigma(h + 2)`, never above one. With the lower bound
      m = 0, the release's choice, its inverse is unbounded;
    - ``"tanh"`` (RealNVP): :math:`\log s = b \tanh(h / b)` with b = 3, bounded in both directions, and the identity
      where the parameters are zero.

    Args:
        scale: ``"sigmoid"`` or ``"tanh"``.
        min_scale: the lower bound m of the sigmoid, in [0, 1).

    Raises:
        UsageError: another name, or a bound that does not fit.

    >>> z, log_slope = Affine("tanh").forward(torch.ones(1), torch.tensor([[0.5, 0.0]]))
    >>> z.item(), log_slope.item()
    (1.5, 0.0)
    """

    scale: str = "sigmoid"
    min_scale: float = 0.0
    parameters = 2

    def __post_init__(self) -> None:
        check_choice("scale", self.scale, ("sigmoid", "tanh"))
        check_positive("min_scale", self.min_scale, zero=True)
        if self.min_scale >= 1 or (self.min_scale and self.scale != "sigmoid"):
            raise UsageError(f"min_scale must be in [0, 1) and needs scale='sigmoid', got {self.min_scale!r}")

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(h)
        return (x + shift) * log_scale.exp(), log_scale

    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        shift, log_scale = self._shift_and_log_scale(h)
        return z * (-log_scale).exp() - shift, -log_scale

    def _shift_and_log_scale(self, h: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = h.unbind(-1)
        if self.scale == "tanh":
            return shift, tanh_log_scale(raw)
        return shift, sigmoid_scale(raw + SCALE_OFFSET, self.min_scale)[1]


SCALE_OFFSET = 2.0
"""Added to the raw scale of a sigmoid: couplings start near the identity, as in the release."""

LARGEST_LOG_SCALE = 3.0


def tanh_log_scale(raw: Tensor) -> Tensor:
    r""":math:`\log s = b \tanh(h / b)` with b = 3: a scale that is bounded in both directions."""
    return LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)


def sigmoid_scale(h: Tensor, min_scale: float) -> tuple[Tensor, Tensor]:
    r"""The scale :math:`s = m + (1 - m) \, \sigma(h)` and its logarithm.

    Where autograd does not look on, not by ``logsigmoid``, whose ``log1p`` is ten times slower in some processes than in
    others (see docs/performance.md).
    """
    scale = torch.sigmoid(h)
    if min_scale:
        scale = min_scale + (1 - min_scale) * scale
        return scale, scale.log()
    if torch.is_grad_enabled():
        return scale, F.logsigmoid(h)
    return scale, torch.maximum(scale.log(), h.clamp_max(-80))  # h itself where the scale is next to nothing


@dataclass(frozen=True)
class Spline(Elementwise):
    """Monotone rational-quadratic splines on [-bound, bound], the identity outside (Durkan et al. 2019, section 3.1).

    Args:
        bins: K; there are 3K - 1 parameters: K widths, K heights, K - 1 slopes at the knots inside.
        bound: half the length of the interval.

    >>> spline = Spline(bins=4, bound=2.0)
    >>> x, h = torch.tensor([0.5, 3.0]), torch.zeros(2, spline.parameters)
    >>> z, log_slope = spline.forward(x, h)  # zeros make it the identity
    >>> torch.allclose(z, x)
    True
    """

    bins: int = 8
    bound: float = 5.0

    SMALLEST: ClassVar[float] = 1e-3
    """Of a bin's width and height, as fractions of the interval, and of a slope."""

    def __post_init__(self) -> None:
        check_positive("bins", self.bins, integer=True)
        check_positive("bound", self.bound)
        if not 2 <= self.bins <= 500:
            raise UsageError(f"bins must be from 2 to 500, got {self.bins}")

    @property
    def parameters(self) -> int:
        return 3 * self.bins - 1

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
