"""Planar flows."""

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.bijections.amortized import Amortized


class Planar(Amortized):
    r""":math:`z = x + \hat u \tanh(w^T x + b)`: space stretched along one direction (Rezende & Mohamed 2015, section 4.1).

    :math:`\hat u` is u with its part along w changed so that :math:`w^T \hat u > -1`, which makes the map invertible
    (appendix A.1). The inverse bisects the one number that it needs, :math:`w^T x`.

    Args:
        dimensions: D.
        context: size of a context (B, context) that decides u, w and b of every element by a linear layer; 0 for one
            map for all.

    >>> f, x = Planar(2), torch.ones(3, 2)
    >>> torch.allclose(f.inverse(f(x)[0])[0], x)
    True
    """

    def __init__(self, dimensions: int, context: int = 0) -> None:
        # w may not start at zero, where nothing depends on u; u does, so that the map starts as the identity.
        start = torch.cat(
            (torch.zeros(dimensions), torch.randn(dimensions) / dimensions**0.5, torch.zeros(1))
        )
        super().__init__(start, context)
        self.dimensions = dimensions

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,) by equation 12."""
        u, w, b = self._parameters_from(x, context)
        t = torch.tanh((w * x).sum(1, keepdim=True) + b)
        return x + u * t, torch.log1p((w * u).sum(1) * (1 - t * t)[:, 0])

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,)."""
        u, w, b = self._parameters_from(z, context)
        along, stretch = (w * z).sum(1, keepdim=True), (w * u).sum(1, keepdim=True)
        t = torch.tanh(solve(along, stretch, b) + b)
        return z - u * t, -torch.log1p(stretch * (1 - t * t))[:, 0]

    def _parameters_from(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """u and w (1 or B, D), b (1 or B, 1)."""
        u, w, b = self.numbers(context, x.dtype).split([self.dimensions, self.dimensions, 1], dim=1)
        along = (w * u).sum(1, keepdim=True)
        # softplus(a) - 1 > -1; shifted so that u = 0 gives 0.
        allowed = F.softplus(along + _SOFTPLUS_ZERO) - 1
        return u + (allowed - along) * w / (w * w).sum(1, keepdim=True), w, b


_SOFTPLUS_ZERO = 0.5413248546129181
"""softplus of it is one."""


HALVINGS = 200
"""At most; bisection ends before, when numbers lie no closer."""


def solve(along: Tensor, stretch: Tensor, b: Tensor) -> Tensor:
    """The root a of a + stretch tanh(a + b) = along, differentiable: of their shape."""
    with torch.no_grad():
        a = _bisect(along, stretch, b)
    # One step of Newton's method, which gives the root its derivatives.
    t = torch.tanh(a + b)
    return a - (a + stretch * t - along) / (1 + stretch * (1 - t * t)).detach()


def _bisect(along: Tensor, stretch: Tensor, b: Tensor) -> Tensor:
    """The root lies within the stretch of ``along``."""
    low, high = along - stretch.abs(), along + stretch.abs()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if ((middle <= low) | (middle >= high)).all():
            break
        below = middle + stretch * torch.tanh(middle + b) < along
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
