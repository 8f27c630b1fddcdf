"""Every value by itself, in the same way for every element: one factor per dimension, and the sigmoid."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.base import Bijection, sum_event


class Scale(Bijection):
    r""":math:`z = e^{s} x` with a learned vector s, zero at first (NICE, Dinh et al. 2014, section 3.3).

    Args:
        dimensions: D.

    >>> Scale(3)(torch.ones(2, 3))[1].tolist()  # it starts as the identity
    [0.0, 0.0]
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


class Sigmoid(Bijection):
    r""":math:`z = \sigma(x)`, the end of a flow onto a uniform base: together they are a logistic base.

    >>> z, log_det = Sigmoid()(torch.zeros(1, 2))
    >>> z.tolist(), round(log_det.exp().item(), 4)  # the slope of each is 1/4
    ([[0.5, 0.5]], 0.0625)
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> (B, ...) in (0, 1), log-det (B,)."""
        return x.sigmoid(), sum_event(F.logsigmoid(x) + F.logsigmoid(-x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) in [0, 1] -> (B, ...), log-det (B,). The ends are moved in by the precision of the dtype."""
        x = z.logit(eps=torch.finfo(z.dtype).eps)
        return x, -sum_event(F.logsigmoid(x) + F.logsigmoid(-x))
