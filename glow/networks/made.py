"""The masked autoencoder, which conditions every dimension on those before it."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedLinear(nn.Linear):
    """A linear layer without some of its weights.

    Args:
        mask: bool (out, in), False where there is no weight.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in) -> (B, out)."""
        return F.linear(x, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """D dimensions -> ``parameters`` numbers for each, which depend on the dimensions before it alone.

    Every unit has a degree, the number of dimensions that it may see, and is connected to units of the layer below
    whose degree is no higher (Germain et al. 2015, section 3; hidden degrees go round instead of being drawn). It starts
    as the zero function.

    Args:
        dimensions: D.
        parameters: outputs per dimension.
        hidden: size of each hidden layer.
        layers: number of hidden layers.
        backwards: the last dimension comes first.
    """

    order: Tensor
    """(D,), the place of each dimension."""

    def __init__(
        self, dimensions: int, parameters: int, hidden: int = 64, layers: int = 2, backwards: bool = False
    ) -> None:
        super().__init__()
        places = torch.arange(dimensions)
        self.register_buffer("order", places.flip(0) if backwards else places)
        degrees = [self.order + 1, *[torch.arange(hidden) % max(1, dimensions - 1) + 1] * layers]
        modules: list[nn.Module] = []
        for below, above in pairwise(degrees):
            modules += [MaskedLinear(above[:, None] >= below), nn.SiLU()]
        last = MaskedLinear(((self.order + 1)[:, None] > degrees[-1]).repeat_interleave(parameters, dim=0))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*modules, last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) -> (B, D, parameters)."""
        return self.layers(x).unflatten(1, (x.shape[1], -1))
