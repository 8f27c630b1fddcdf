"""Invertible residual blocks."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glow.bijections.base import Bijection, ieee_precision

if TYPE_CHECKING:  # networks import bijections
    from glow.networks import LipschitzMLP

Product = Callable[[Tensor], Tensor]

TERMS_IN_TRAINING, TERMS = 2, 20
"""Of the power series before the roulette (Chen et al. 2019)."""
ITERATIONS = 4000
"""Of the inverse, at most: with a Lipschitz constant of 0.99 and what float64 can tell apart, 3,400."""
CHECKED = 16
"""After so many iterations it is asked whether all elements have stopped, for which a GPU waits."""
STILL = 8.0
"""An element has stopped when it moves by less than that many units in the last place."""


class Residual(Bijection):
    r"""z = x + g(x) with a contraction g (Behrmann et al. 2019, theorem 1); the inverse iterates x = z - g(x).

    .. math:: \log |\det \partial z / \partial x| = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \mathrm{tr} \, J^k,
        \qquad J = \partial g / \partial x

    Without a context it is exact, by D products of the Jacobian. With one, it is estimated without bias (Chen et al. 2019,
    theorem 1): :math:`\mathrm{tr} \, J^k` by :math:`v^T J^k v` with a random probe v of mean zero and covariance one, and the sum by a
    Russian roulette, in which every term after the first two (20 when not training) is reached with half the probability of the one
    before it, and counts for as much more.

    Its gradient is not that of the estimate, but the Neumann series' estimate of the gradient (theorem 2),

    .. math:: v^T \frac{\partial J}{\partial \theta} \sum_{k \ge 1} (-1)^{k+1} J^{k-1} v,

    whose sum is a constant of the differentiation, so that memory does not grow with the number of terms. The powers stand on the right
    of the derivative here, which under the trace is the same.

    Args:
        network: g.

    >>> from glow.networks import LipschitzMLP
    >>> f, x = Residual(LipschitzMLP(2)), torch.ones(3, 2)
    >>> torch.allclose(f.inverse(f(x)[0])[0], x, atol=1e-5)
    True
    """

    kind = "residual"

    def __init__(self, network: "LipschitzMLP") -> None:
        super().__init__()
        self.network = network
        self.terms = 0
        """Of the last estimate, the most that an element of the batch had."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,).

        Args:
            x: the input.
            context: K probes of each x, and for each probe how many terms come after the first, n with probability 2^-(n+1):
                (B, D + 1, K), of which the mean is taken; with K = 0 there is no log-det but zeros. Exact when absent.
        """
        with ieee_precision(x.device):
            g, product = self.network.linearized(x)
            if context is None:
                return x + g, torch.linalg.slogdet(_jacobian(product, x))[1]
            return x + g, self._estimate(product, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,); ``context`` as in ``forward``."""
        with ieee_precision(z.device):
            weights = self.network.weights()
            x = self._fixed_point(z, weights)
            if torch.is_grad_enabled():
                # One step of Newton's method, which gives the solution its derivatives.
                g, product = self.network.linearized(x, weights)
                moved = (x + g - z)[..., None]
                x = x - torch.linalg.solve(_jacobian(product, x).detach(), moved)[..., 0]
        return x, -self(x, context)[1]

    def _estimate(self, product: Product, context: Tensor) -> Tensor:
        if not context.numel():
            return context.new_zeros(len(context))
        v, more = context[:, :-1].movedim(2, 0), context[:, -1].T  # (K, B, D), (K, B)
        first = TERMS_IN_TRAINING if self.training else TERMS
        self.terms = first + int(more.max())
        value, series, power = torch.zeros_like(more), torch.zeros_like(v), v
        with torch.no_grad():
            for k in range(1, self.terms + 1):
                beyond = max(0, k - first)
                weight = torch.where(more >= beyond, (-1) ** (k + 1) * 2.0**beyond, 0.0)
                series = series + weight[..., None] * power
                power = product(power)
                value = value + weight / k * (v * power).sum(2)
        if torch.is_grad_enabled():
            neumann = (v * product(series)).sum(2)
            value = value + (neumann - neumann.detach())
        return value.mean(0)

    @torch.no_grad()
    def _fixed_point(self, z: Tensor, weights: list[Tensor]) -> Tensor:
        """Each element stops by itself, whatever the others do; not a number where it did not."""
        x, still = z, STILL * torch.finfo(z.dtype).eps
        moving = torch.ones(len(z), 1, dtype=torch.bool, device=z.device)
        for i in range(ITERATIONS):
            if i % CHECKED == 0 and not moving.any():
                break
            after = z - self.network(x, weights)
            x, before = torch.where(moving, after, x), x
            moving = moving & ((x - before).abs() > still * (1 + x.abs())).any(1, keepdim=True)
        return x.masked_fill(moving, torch.nan)


def _jacobian(product: Product, x: Tensor) -> Tensor:
    """I + J at x (B, D): (B, D, D)."""
    b, d = x.shape
    eye = torch.eye(d, dtype=x.dtype, device=x.device)
    return eye + product(eye[:, None].expand(d, b, d)).permute(1, 2, 0)
