"""RealNVP for vectors: affine couplings with alternating masks (Dinh et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from glow.bijections import AffineCoupling, Composition
from glow.flow import Flow
from glow.models.vectors import alternating, check_vectors
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
    dimensions = check_vectors("realnvp", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)

    def coupling(given: int, moved: int, swap: bool) -> AffineCoupling:
        return AffineCoupling(MLP(given, 2 * moved, hidden, hidden_layers), swap=swap, scale="tanh")

    return Flow(Composition(alternating(dimensions, layers, coupling)), shape)
