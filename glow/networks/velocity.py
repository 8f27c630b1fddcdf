"""The velocity of a flow in continuous time."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Velocity(nn.Module):
    r"""Linear layers that the time gates and shifts, tanh between them (ConcatSquash of FFJORD's release).

    .. math:: h' = (W h + b) \, \sigma(g t + c) + s t

    It differentiates itself forward: products of its Jacobian cost as much as one more pass each, and no graph.

    Args:
        dimensions: D.
        hidden: size of each hidden layer.
        layers: number of hidden layers.
    """

    def __init__(self, dimensions: int, hidden: int = 64, layers: int = 3) -> None:
        super().__init__()
        sizes = [dimensions, *[hidden] * layers, dimensions]
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.gate = nn.ModuleList(nn.Linear(1, b) for b in sizes[1:])
        self.shift = nn.ModuleList(nn.Linear(1, b, bias=False) for b in sizes[1:])

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """The velocity (B, D) at time t, without dimensions, and x (B, D)."""
        return self.with_products(t, x, x.new_zeros(0, *x.shape))[0]

    def with_products(self, t: Tensor, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity (B, D) and the products of its Jacobian with K vectors for each x: (K, B, D) -> (K, B, D)."""
        t, last = t.reshape(1), len(self.linear) - 1
        for i, (linear, gate, shift) in enumerate(zip(self.linear, self.gate, self.shift, strict=True)):
            assert isinstance(linear, nn.Linear)
            share = torch.sigmoid(gate(t))
            weight, bias = share[:, None] * linear.weight, share * linear.bias + shift(t)
            x, vectors = F.linear(x, weight, bias), F.linear(vectors, weight)
            if i < last:
                x = torch.tanh(x)
                vectors = vectors * (1 - x * x)
        return x, vectors
