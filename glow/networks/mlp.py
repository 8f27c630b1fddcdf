"""The network that conditions a coupling of vectors."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: (B, in_features) -> (B, out_features).

    It does not start as the zero function, where symmetric data, such as Gaussians on a circle, keep additive couplings.

    Args:
        in_features: size of the conditioning part.
        out_features: number of parameters that the coupling needs.
        hidden: size of each hidden layer.
        layers: number of hidden layers.
        context: size of a context that is seen beside the input; 0 for none.
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: int = 64, layers: int = 2, context: int = 0
    ) -> None:
        sizes = [in_features + context, *[hidden] * layers]
        modules: list[nn.Module] = []
        for a, b in pairwise(sizes):
            modules += [nn.Linear(a, b), nn.ReLU()]
        super().__init__(*modules, nn.Linear(sizes[-1], out_features))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_features), and (B, context) if there is one -> (B, out_features)."""
        return super().forward(x if context is None else torch.cat((x, context), dim=1))
