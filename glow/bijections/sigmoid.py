"""Onto the unit cube."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.bijections.base import Bijection, sum_event


class Sigmoid(Bijection):
    r""":math:`z = \sigma(x)`, the end of a flow onto a uniform base: together they are a logistic base."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> (B, ...) in (0, 1), log-det (B,)."""
        return x.sigmoid(), sum_event(F.logsigmoid(x) + F.logsigmoid(-x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) in [0, 1] -> (B, ...), log-det (B,). The ends are moved in by the precision of the dtype."""
        x = z.logit(eps=torch.finfo(z.dtype).eps)
        return x, -sum_event(F.logsigmoid(x) + F.logsigmoid(-x))
