"""The network that conditions a coupling of vectors."""

from __future__ import annotations

from itertools import pairwise

from torch import nn


class MLP(nn.Sequential):
    """Linear layers with SiLU between them; it starts as the zero function.

    SiLU has no kinks, so neither has the density. (B, in_features) -> (B, out_features).

    Args:
        in_features: size of the conditioning part.
        out_features: number of parameters that the coupling needs.
        hidden: size of each hidden layer.
        layers: number of hidden layers.
    """

    def __init__(self, in_features: int, out_features: int, hidden: int = 64, layers: int = 2) -> None:
        sizes = [in_features, *[hidden] * layers]
        modules: list[nn.Module] = []
        for a, b in pairwise(sizes):
            modules += [nn.Linear(a, b), nn.SiLU()]
        last = nn.Linear(sizes[-1], out_features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(*modules, last)
