"""Coupling layers: one half of the channels decides how the other half is moved."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.base import Bijection, no_log_det, sum_event
from glow.bijections.elementwise import Spline, tanh_log_scale
from glow.errors import UsageError, check_choice, check_positive

SHARPNESS = 2.0
"""Added to a raw scale: couplings start near the identity, as in the release."""


class Coupling(Bijection):
    """Leave one half of the channels as it is and transform the other, given the first.

    Args:
        network: maps the conditioning half (B, C1, ...) to the parameters of the transformation. It is
            only ever evaluated, in both directions on the same input; under autocast it runs in the lower
            precision, and its output is brought back to the dtype of the flow. Where a context is given, it gets
            that, too.
        swap: let the second half condition the first (the alternating masks of RealNVP). With an odd
            number of channels the second half is the larger one.
    """

    def __init__(self, network: nn.Module, swap: bool = False) -> None:
        super().__init__()
        self.network = network
        self.swap = swap

    @abstractmethod
    def transform(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Move ``x`` (B, C2, ...) by the parameters ``h``; returns z and its log-det (B,)."""

    @abstractmethod
    def restore(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of ``transform``."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), log-det (B,)."""
        given, moved = self._halves(x)
        moved, log_det = self.transform(moved, self._parameters_of(given, context))
        return self._join(given, moved), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), log-det (B,)."""
        given, moved = self._halves(z)
        moved, log_det = self.restore(moved, self._parameters_of(given, context))
        return self._join(given, moved), log_det

    def _parameters_of(self, given: Tensor, context: Tensor | None) -> Tensor:
        h = self.network(given) if context is None else self.network(given, context)
        return h.to(given.dtype)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.tensor_split([x.shape[1] // 2], dim=1)
        return (second, first) if self.swap else (first, second)

    def _join(self, given: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((moved, given) if self.swap else (given, moved), dim=1)


class AdditiveCoupling(Coupling):
    """:math:`z_2 = x_2 + t(x_1)`, volume preserving (NICE, Dinh et al. 2014, section 3.2).

    The network has as many outputs as the moved half has channels.
    """

    def transform(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x + t, zeros (B,)."""
        return x + h, no_log_det(x)

    def restore(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """z - t, zeros (B,)."""
        return z - h, no_log_det(z)


class AffineCoupling(Coupling):
    r""":math:`z_2 = (x_2 + t(x_1)) \, s(x_1)` (RealNVP, Dinh et al. 2017, equation 4; Glow, table 1).

    The network has twice as many outputs as the moved half has channels: shift and raw scale h,
    interleaved as in Glow's release. The scale is one of

    - ``"sigmoid"`` (Glow): :math:`s = m + (1 - m) \, \sigma(h + 2)`, never above one. With the lower bound
      m = 0, the release's choice, its inverse is unbounded;
    - ``"tanh"`` (RealNVP): :math:`\log s = b \tanh(h / b)` with b = 3, bounded in both directions.

    In evaluation mode ``smallest_scale`` is the smallest scale that ``forward`` used since it was None.

    Args:
        network: see ``Coupling``.
        swap: see ``Coupling``.
        scale: ``"sigmoid"`` or ``"tanh"``.
        min_scale: the lower bound m of the sigmoid, in [0, 1).
    """

    smallest_scale: Tensor | None = None

    def __init__(
        self, network: nn.Module, swap: bool = False, scale: str = "sigmoid", min_scale: float = 0.0
    ) -> None:
        super().__init__(network, swap)
        check_choice("scale", scale, ("sigmoid", "tanh"))
        check_positive("min_scale", min_scale, zero=True)
        if min_scale >= 1 or (min_scale and scale != "sigmoid"):
            raise UsageError(f"min_scale must be in [0, 1) and needs scale='sigmoid', got {min_scale!r}")
        self.scale = scale
        self.min_scale = min_scale

    def transform(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """(x + t) s, log-det (B,)."""
        shift, log_scale = self._parameters_from(h)
        if not self.training:
            self.record(log_scale.detach().amin().exp())
        return (x + shift) * log_scale.exp(), sum_event(log_scale)

    def record(self, scale: Tensor) -> None:
        """Take a scale (a scalar) into account for ``smallest_scale``."""
        known = self.smallest_scale
        self.smallest_scale = scale if known is None else torch.minimum(scale, known)

    def restore(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Z / s - t, log-det (B,)."""
        shift, log_scale = self._parameters_from(h)
        return z * (-log_scale).exp() - shift, -sum_event(log_scale)

    def _parameters_from(self, h: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = h[:, 0::2], h[:, 1::2]
        if self.scale == "tanh":
            log_scale = tanh_log_scale(raw)
        else:
            _, log_scale = sigmoid_scale(raw + SHARPNESS, self.min_scale)
        return shift, log_scale


class SplineCoupling(Coupling):
    """Every element of the moved half goes through a spline of its own (Durkan et al. 2019, section 3.2).

    The network has ``spline.parameters`` outputs for each of the C2 elements of vectors (B, C2), one element's after
    another's.

    Args:
        network: see ``Coupling``.
        spline: the function.
        swap: see ``Coupling``.
    """

    def __init__(self, network: nn.Module, spline: Spline, swap: bool = False) -> None:
        super().__init__(network, swap)
        self.spline = spline

    def transform(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The spline of x, log-det (B,)."""
        z, log_slope = self.spline.forward(x, h.unflatten(1, (-1, self.spline.parameters)))
        return z, sum_event(log_slope)

    def restore(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Its inverse, log-det (B,)."""
        x, log_slope = self.spline.inverse(z, h.unflatten(1, (-1, self.spline.parameters)))
        return x, sum_event(log_slope)


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
