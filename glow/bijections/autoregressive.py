"""Maps in which every dimension is moved as those before it decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glow.bijections.base import Bijection, sum_event
from glow.bijections.elementwise import Elementwise

if TYPE_CHECKING:
    from glow.networks import MADE  # which is built of these bijections' parts


class Autoregressive(Bijection):
    r""":math:`z_i = f(x_i; h_i(x_{<i}))` (masked autoregressive flow, Papamakarios et al. 2017, section 3.1).

    ``forward`` takes one pass of the network, ``inverse`` one per dimension.

    Args:
        network: gives the parameters of a dimension from the dimensions before it, in its first order.
        elementwise: f.
    """

    def __init__(self, network: MADE, elementwise: Elementwise) -> None:
        super().__init__()
        self.network = network
        self.elementwise = elementwise

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,)."""
        z, log_slope = self.elementwise.forward(x, self.network(x, context).to(x.dtype))
        return z, sum_event(log_slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,); dimension after dimension."""
        x, total = torch.zeros_like(z), z.new_zeros(len(z))
        for i in self.network.orders[0].argsort().tolist():
            h = self.network(x, context).to(z.dtype)
            value, log_slope = self.elementwise.inverse(z[:, i], h[:, i])
            x = torch.cat((x[:, :i], value[:, None], x[:, i + 1 :]), dim=1)  # not in place, for autograd
            total = total + log_slope
        return x, total


class Inverse(Bijection):
    """A bijection the other way round: what was slow is fast (inverse autoregressive flow, Kingma et al. 2016).

    Args:
        bijection: between spaces of the same shape.
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The inverse of the bijection."""
        return self.bijection.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The bijection."""
        return self.bijection(z, context)
