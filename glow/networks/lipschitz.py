"""A network that contracts: the residual of an invertible residual block."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.base import ieee_precision

ROUNDS = 4
"""Of three squarings of a Gram matrix, without which its trace would leave the range of float32: 4,096 steps of power iteration."""
STEEPEST = 1.1
"""Above the largest slope of swish, 1.0998."""
START = 20.0
"""Of beta: weights are small where their norms are bounded, and with a smaller beta LipSwish would be nearly linear."""


class LipschitzMLP(nn.Module):
    r"""Linear layers with LipSwish between them, such that :math:`|g(x) - g(y)| \le L |x - y|`, L below one.

    .. math:: W' = W / \max(1, \|W\|_2 / L^{1/n}), \qquad \mathrm{LipSwish}(h) = h \, \sigma(\beta h) / 1.1

    for n linear layers; :math:`\beta > 0` is learned, one a layer (Behrmann et al. 2019, section 2.1; Chen et al. 2019,
    section 3.3).

    It differentiates itself forward: a product of its Jacobian costs as much as one more pass, and needs no graph.

    Args:
        dimensions: D.
        hidden: size of each hidden layer.
        layers: number of hidden layers.
        lipschitz: L.

    >>> g = LipschitzMLP(2, lipschitz=0.5)
    >>> x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> bool((g(x)[0] - g(x)[1]).norm() <= 0.5 * 5)
    True
    """

    def __init__(self, dimensions: int, hidden: int = 64, layers: int = 2, lipschitz: float = 0.97) -> None:
        super().__init__()
        sizes = [dimensions, *[hidden] * layers, dimensions]
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.raw_beta = nn.Parameter(torch.full((layers,), START))  # softplus leaves such numbers as they are
        self.largest = lipschitz ** (1 / (layers + 1))
        with torch.no_grad():
            # At their largest norm, with biases in proportion: smaller weights learn slowly.
            for layer in self.linear:
                weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
                factor = self.largest / spectral_norm(weight)
                weight.mul_(factor)
                bias.mul_(factor)

    def weights(self) -> list[Tensor]:
        """W' of every layer, for ``linearized``."""
        matrices = [layer.get_parameter("weight") for layer in self.linear]
        return [w / (spectral_norm(w) / self.largest).clamp(min=1) for w in matrices]

    def forward(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """(B, D) -> (B, D); ``weights`` as they are when absent."""
        return self._activated(x, self.weights() if weights is None else weights)[0]

    def linearized(
        self, x: Tensor, weights: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """g(x) (B, D), and what takes vectors (..., B, D) to their products with the Jacobian at x, (..., B, D)."""
        weights = self.weights() if weights is None else weights
        g, hidden = self._activated(x, weights)
        slopes = [share * (1 + beta * h * (1 - share)) / STEEPEST for h, beta, share in hidden]

        def product(vectors: Tensor) -> Tensor:
            for i, weight in enumerate(weights):
                vectors = F.linear(vectors, weight)
                if i < len(slopes):
                    vectors = vectors * slopes[i]
            return vectors

        return g, product

    def _activated(
        self, x: Tensor, weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """g(x) (B, D), and of every hidden layer h (B, hidden), beta and sigma(beta h)."""
        betas, hidden = F.softplus(self.raw_beta).unbind(), []
        for i, (layer, weight) in enumerate(zip(self.linear, weights, strict=True)):
            x = F.linear(x, weight, layer.get_parameter("bias"))
            if i < len(betas):
                share = torch.sigmoid(betas[i] * x)
                hidden.append((x, betas[i], share))
                x = x * share / STEEPEST
        return x, hidden

    @torch.no_grad()
    def lipschitz(self) -> float:
        """The product of the layers' norms: no two points are further apart afterwards, relative to before."""
        with ieee_precision(self.raw_beta.device):
            norms = [torch.linalg.matrix_norm(w, 2) for w in self.weights()]
            return float(torch.stack(norms).prod())


def spectral_norm(weight: Tensor) -> Tensor:
    r"""The largest singular value of a matrix, by power iteration with the matrix itself: squaring it m times makes 2^m steps.

    .. math:: \sigma^2 = \mathrm{tr}(P G), \qquad P = G^{2^m} / \mathrm{tr} \, G^{2^m}

    G is the smaller of the Gram matrices. P is held constant, which gives the derivative of power iteration, :math:`u v^T`.
    At most :math:`\log(n) / 2^{m+1}` below the norm, relatively: 0.05% for n = 64.
    Starting anew every time, it has no state that checkpoints or averaged weights would have to keep, as the vectors of power
    iteration are (Miyato et al. 2018, appendix A; Behrmann et al. 2019, section 2.1).

    >>> round(float(spectral_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]]))), 4)
    4.0
    """
    gram = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
    tiny = torch.finfo(weight.dtype).tiny  # a matrix of zeros has norm zero
    with torch.no_grad():
        power = gram / gram.trace().clamp(min=tiny)
        for _ in range(ROUNDS):
            power = torch.linalg.matrix_power(power, 8)
            power = power / power.trace().clamp(min=tiny)
    return (power * gram).sum().clamp(min=tiny).sqrt()
