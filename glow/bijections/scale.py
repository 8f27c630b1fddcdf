"""One factor per dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection


class DiagonalScale(Bijection):
    r""":math:`z = e^{s} x` with a learned vector s, zero at first (NICE, Dinh et al. 2014, section 3.3).

    Args:
        dimensions: D.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(dimensions))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,)."""
        return x * self.log_scale.exp(), self.log_scale.sum().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,)."""
        return z * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(z))
