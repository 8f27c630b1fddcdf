"""Maps in which every dimension is moved as those before it decide."""

from typing import cast

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection, sum_event
from glow.bijections.elementwise import Elementwise


class Autoregressive(Bijection):
    r""":math:`z_i = f(x_i; h_i(x_{<i}))` (masked autoregressive flow, Papamakarios et al. 2017, section 3.1).

    ``forward`` takes one pass of the network, ``inverse`` one per dimension.

    Args:
        network: (B, D) and a context or None -> (B, D, parameters), each dimension's from the dimensions before it;
            its ``orders[0]`` (D,) is the place of each dimension (``glow.networks.MADE``).
        elementwise: f.

    >>> from glow.bijections import Affine
    >>> from glow.networks import MADE
    >>> f = Autoregressive(MADE(3, parameters=2), Affine("tanh"))
    >>> z, log_det = f(torch.ones(5, 3))
    >>> torch.allclose(f.inverse(z)[0], torch.ones(5, 3))
    True
    """

    def __init__(self, network: nn.Module, elementwise: Elementwise) -> None:
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
        for i in cast(Tensor, self.network.orders)[0].argsort().tolist():
            h = self.network(x, context).to(z.dtype)
            value, log_slope = self.elementwise.inverse(z[:, i], h[:, i])
            x = torch.cat((x[:, :i], value[:, None], x[:, i + 1 :]), dim=1)  # not in place, for autograd
            total = total + log_slope
        return x, total
