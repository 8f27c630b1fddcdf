"""From grey levels to real numbers and back, with the level correction that this costs."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from glow.bijections.base import Bijection
from glow.errors import UsageError, check_positive


class Dequantization(Bijection):
    r"""Uniform dequantization of an integer in 0 .. levels-1 (Theis et al. 2016, section 3.1).

    .. math:: x = (q + u) / levels - 1/2, \qquad u \sim U[0, 1)

    The log-determinant is that of the scaling, :math:`-D \ln levels`, with D the number of values in one
    element, taken from the tensor. A density model of x plus this log-determinant is a lower bound on
    the log-probability of the integers; divided by :math:`-D \ln 2` it is the field's bits/dim (Glow's
    released code, ``model.py``), with :math:`levels = 2^{n\_bits}`. This class owns both the noise and its
    correction, so that they cannot disagree.

    Args:
        levels: number of grey levels, 2 to 256; 2^n_bits is the usual case.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        check_positive("grey_levels", levels, integer=True)
        if not 2 <= levels <= 256:
            raise UsageError(f"grey_levels must be between 2 and 256, got {levels}")
        self.levels = levels

    def forward(
        self, x: Tensor, context: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Integers (B, ...) -> reals in [-1/2, 1/2) (B, ...), log-det (B,).

        Args:
            x: integers in 0 .. levels-1, any integer dtype.
            context: ignored.
            noise: values in [0, 1), of x's shape or broadcasting to it; its dtype is the result's. Drawn
                from the global generator in the default dtype when absent; 0.5 gives the bins' centres.

        Raises:
            UsageError: ``x`` is not of an integer dtype or leaves the range.
        """
        if x.is_floating_point():
            raise UsageError(f"images must be integers from 0 to {self.levels - 1}, got {x.dtype}")
        # A uint8 picture of 256 levels is in range by its type; only the others are worth a look.
        if (x.dtype != torch.uint8 or self.levels < 256) and ((x < 0) | (x >= self.levels)).any():
            raise UsageError(
                f"images must be integers from 0 to {self.levels - 1}, got values from {x.min()} to {x.max()}"
            )
        if noise is None:
            noise = torch.rand(x.shape, device=x.device)
        z = (x + noise) / self.levels - 0.5
        return z, z.new_full((x.shape[0],), -self._scale(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reals (B, ...) -> the grey level of their bin, uint8 (B, ...), log-det (B,).

        Values outside the range go to its nearest end. Values that are not finite become level 0, with a
        warning that counts the affected elements.
        """
        finite = torch.isfinite(z)
        if not finite.all():
            bad = int((~finite.flatten(1).all(1)).sum())
            warnings.warn(
                f"{bad} of {len(z)} images have values that are not finite; drawn black", stacklevel=2
            )
            z = torch.where(finite, z, -0.5)
        x = ((z + 0.5) * self.levels).floor().clamp(0, self.levels - 1).to(torch.uint8)
        return x, z.new_full((z.shape[0],), self._scale(z))

    def _scale(self, x: Tensor) -> float:
        return x[0].numel() * math.log(self.levels)
