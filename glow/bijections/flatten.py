"""Images as vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glow.bijections.base import Bijection, Shape, no_log_det


class Flatten(Bijection):
    """Elements of any shape as vectors, evenly numbered values before oddly numbered ones.

    Couplings move one half of a vector given the other: neighbouring pixels should lie in different halves (NICE,
    Dinh et al. 2014, section 5.1, separates even and odd components).

    Args:
        shape: of one element.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, *shape) -> (B, D), zeros (B,)."""
        flat = x.flatten(1)
        return flat[:, self._order(x)], no_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, *shape), zeros (B,)."""
        return z[:, self._order(z).argsort()].unflatten(1, self.shape), no_log_det(z)

    def output_shape(self, shape: Shape) -> Shape:
        """(D,)."""
        return (math.prod(shape),)

    def _order(self, like: Tensor) -> Tensor:
        i = torch.arange(math.prod(self.shape), device=like.device)
        return torch.cat((i[0::2], i[1::2]))
