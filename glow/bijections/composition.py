"""Bijections one after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from glow.bijections.base import Bijection, Shape, no_log_det


class Composition(Bijection):
    r"""The chain :math:`f = f_n \circ \dots \circ f_1`; log-determinants add up.

    Args:
        steps: the bijections in the order in which ``forward`` applies them.
    """

    def __init__(self, steps: Sequence[Bijection]) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> z (B, ...), log-det (B,)."""
        total = no_log_det(x)
        for step in self.steps:
            x, log_det = step(x, context)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> x (B, ...), log-det (B,)."""
        total = no_log_det(z)
        for step in reversed(self.steps):
            z, log_det = cast(Bijection, step).inverse(z, context)
            total = total + log_det
        return z, total

    def output_shape(self, shape: Shape) -> Shape:
        """The shape after all steps."""
        for step in self.steps:
            shape = cast(Bijection, step).output_shape(shape)
        return shape
