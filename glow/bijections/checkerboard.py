"""Couplings of images whose halves are the colours of a checkerboard."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection, sum_event
from glow.bijections.elementwise import Elementwise


class CheckerboardCoupling(Bijection):
    r"""Pixels of one colour stay and decide how those of the other are moved (Dinh et al. 2017, section 3.4, figure 3).

    With b one where a pixel stays, :math:`z = b x + (1 - b) f(x; h(b x))`.

    Args:
        network: (B, C, H, W) -> (B, parameters C, H, W), one channel's parameters after another's.
        elementwise: f, the identity where its parameters are zero.
        swap: let the pixels of odd row + column stay instead of the even ones.
    """

    def __init__(self, network: nn.Module, elementwise: Elementwise, swap: bool = False) -> None:
        super().__init__()
        self.network = network
        self.elementwise = elementwise
        self.swap = swap

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C, H, W), log-det (B,)."""
        z, log_slope = self.elementwise.forward(x, self._parameters_from(x))
        return z, sum_event(log_slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C, H, W), log-det (B,)."""
        x, log_slope = self.elementwise.inverse(z, self._parameters_from(z))
        return x, sum_event(log_slope)

    def _parameters_from(self, x: Tensor) -> Tensor:
        """(B, C, H, W, parameters), zero where pixels stay."""
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
        stays = ((rows[:, None] + columns) % 2 == self.swap).to(x.dtype)  # (H, W)
        h = self.network(x * stays).to(x.dtype) * (1 - stays)
        return h.unflatten(1, (x.shape[1], -1)).movedim(2, -1)
