"""Activation normalization."""

import math

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection, DataDependent

LOG_SCALE_FACTOR = 3.0
"""The release multiplies every stored log-scale by this: three times the learning rate for scales."""

EPSILON = 1e-6
"""Added to a standard deviation before dividing by it, as in the release."""


def standardize(x: Tensor) -> tuple[Tensor, Tensor]:
    """The shift and log-scale (each (C,)) that give ``x`` (B, C, ...) zero mean and unit variance."""
    dims = [d for d in range(x.dim()) if d != 1]
    std, mean = torch.std_mean(x, dim=dims, correction=0)
    return -mean, -torch.log(std + EPSILON)


class ActNorm(Bijection, DataDependent):
    r"""A shift and a scale per channel, :math:`z = (x + b) \, e^{s}` (Kingma & Dhariwal 2018, section 3.1).

    ``initialize`` sets b and s so that z has zero mean and unit variance per channel on that batch. The
    log-determinant is H W times the sum of s.

    Args:
        channels: C of inputs (B, C, ...).

    >>> layer, x = ActNorm(1), torch.tensor([[0.0], [2.0]])
    >>> layer.initialize(x)
    >>> layer(x)[0].flatten().round().tolist()
    [-1.0, 1.0]
    """

    kind = "actnorm"

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))
        self.logs = nn.Parameter(torch.zeros(channels))

    def initialize(self, x: Tensor) -> None:
        """Set shift and scale from the statistics of ``x`` (B, C, ...)."""
        shift, log_scale = standardize(x)
        self.shift.data.copy_(shift)
        self.logs.data.copy_(log_scale / LOG_SCALE_FACTOR)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), log-det (B,)."""
        shift, log_scale = self._parameters_for(x)
        return (x + shift) * log_scale.exp(), self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), log-det (B,)."""
        shift, log_scale = self._parameters_for(z)
        return z * (-log_scale).exp() - shift, -self._log_det(z)

    def _parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (x.dim() - 2))  # (C, 1, 1) for images, (C,) for vectors
        return self.shift.view(shape), (self.logs * LOG_SCALE_FACTOR).view(shape)

    def _log_det(self, x: Tensor) -> Tensor:
        pixels = math.prod(x.shape[2:])
        return (pixels * LOG_SCALE_FACTOR * self.logs.sum()).expand(x.shape[0])
