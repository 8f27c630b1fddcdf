"""NICE for vectors: additive couplings and one diagonal scaling (Dinh et al. 2014)."""

from __future__ import annotations

from collections.abc import Sequence

from glow.bijections import AdditiveCoupling, Composition, DiagonalScale
from glow.flow import Flow
from glow.models.vectors import alternating, check_vectors
from glow.networks import MLP


def nice(shape: Sequence[int], layers: int = 6, hidden: int = 64, hidden_layers: int = 2) -> Flow:
    """Additive couplings of alternating halves, then a learned factor for each dimension (section 3.3).

    Args:
        shape: (D,), at least two dimensions.
        layers: number of couplings.
        hidden: size of the hidden layers of each coupling's network.
        hidden_layers: number of those.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    dimensions = check_vectors("nice", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)

    def coupling(given: int, moved: int, swap: bool) -> AdditiveCoupling:
        return AdditiveCoupling(MLP(given, moved, hidden, hidden_layers), swap=swap)

    return Flow(Composition([*alternating(dimensions, layers, coupling), DiagonalScale(dimensions)]), shape)
