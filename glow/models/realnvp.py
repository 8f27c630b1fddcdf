"""RealNVP for vectors: affine couplings with alternating masks (Dinh et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from glow.bijections import AffineCoupling, Composition
from glow.errors import UsageError, check_positive, check_shape
from glow.flow import Flow
from glow.networks import MLP


def realnvp(shape: Sequence[int], layers: int = 6, hidden: int = 64, hidden_layers: int = 2) -> Flow:
    """Affine couplings with tanh-bounded scales; even ones move the second half, odd ones the first.

    Args:
        shape: (D,), at least two dimensions.
        layers: number of couplings.
        hidden: size of the hidden layers of each coupling's network.
        hidden_layers: number of those.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    check_shape("shape", shape)
    if len(shape) != 1 or shape[0] < 2:
        raise UsageError(
            f"realnvp models vectors of two or more dimensions, but the data has shape {tuple(shape)}"
        )
    for name, value in (("layers", layers), ("hidden", hidden), ("hidden_layers", hidden_layers)):
        check_positive(name, value, integer=True)
    first = shape[0] // 2
    second = shape[0] - first
    couplings = []
    for i in range(layers):
        given, moved = (first, second) if i % 2 == 0 else (second, first)
        network = MLP(given, 2 * moved, hidden, hidden_layers)
        couplings.append(AffineCoupling(network, swap=i % 2 == 1, scale="tanh"))
    return Flow(Composition(couplings), shape)
