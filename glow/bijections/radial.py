"""Radial flows."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.base import Bijection


class Radial(Bijection):
    r""":math:`z = x + \beta (x - c) / (\alpha + |x - c|)`: space drawn to or pushed from a point c.

    Rezende & Mohamed 2015, section 4.1, equation 14; :math:`\beta > -\alpha` makes it invertible (appendix A.2). The
    inverse is the positive root of a quadratic in the distance.

    Args:
        dimensions: D.

    >>> z, log_det = Radial(2)(torch.ones(3, 2))
    >>> z.tolist() == torch.ones(3, 2).tolist()  # it starts as the identity
    True
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.centre = nn.Parameter(torch.randn(dimensions))
        self.raw_alpha = nn.Parameter(torch.zeros(()))
        self.raw_beta = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,)."""
        alpha, beta = self._alpha_and_beta()
        away = x - self.centre
        r = _length(away)
        return x + away * beta / (alpha + r), self._log_det(r[:, 0], alpha, beta)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,). With R the length of z - c, r^2 + (alpha + beta - R) r = alpha R."""
        alpha, beta = self._alpha_and_beta()
        away = z - self.centre
        p = alpha + beta - _length(away)
        q = 4 * alpha * _length(away)
        root = (p * p + q).sqrt()
        r = torch.where(p > 0, q / (root + p.clamp(min=0)) / 2, (root - p) / 2)  # without cancellation
        x = self.centre + away / (1 + beta / (alpha + r))
        return x, -self._log_det(r[:, 0], alpha, beta)

    def _alpha_and_beta(self) -> tuple[Tensor, Tensor]:
        """alpha > 0 and beta > -alpha; beta starts at zero."""
        alpha = F.softplus(self.raw_alpha)
        return alpha, F.softplus(self.raw_alpha + self.raw_beta) - alpha

    def _log_det(self, r: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """(D - 1) log(1 + beta h) + log(1 + beta h + beta h' r), with h = 1 / (alpha + r)."""
        across = beta / (alpha + r)
        along = beta * alpha / (alpha + r) ** 2
        return (self.dimensions - 1) * torch.log1p(across) + torch.log1p(along)


def _length(x: Tensor) -> Tensor:
    """(B, D) -> (B, 1), with a derivative at zero."""
    return (x * x).sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
