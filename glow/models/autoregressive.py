"""Autoregressive flows of vectors, in either direction."""

from __future__ import annotations

from collections.abc import Sequence

from glow.bijections import Affine, Autoregressive, Bijection, Composition, Elementwise, Inverse
from glow.flow import Flow
from glow.models.vectors import check_vectors
from glow.networks import MADE


def autoregressive_layers(
    dimensions: int, layers: int, hidden: int, hidden_layers: int, elementwise: Elementwise
) -> list[Bijection]:
    """``layers`` maps, every other one from the last dimension to the first."""
    made: list[Bijection] = []
    for i in range(layers):
        network = MADE(dimensions, elementwise.parameters, hidden, hidden_layers, backwards=i % 2 == 1)
        made.append(Autoregressive(network, network.order, elementwise))
    return made


def maf(shape: Sequence[int], layers: int = 6, hidden: int = 64, hidden_layers: int = 2) -> Flow:
    """Masked autoregressive flow (Papamakarios et al. 2017): densities in one pass a layer, samples in D.

    Args:
        shape: (D,), at least two dimensions.
        layers: number of affine autoregressive maps; the order of the dimensions turns round between them.
        hidden: size of the hidden layers of each map's ``MADE``.
        hidden_layers: number of those.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    dimensions = check_vectors("maf", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
    return Flow(
        Composition(autoregressive_layers(dimensions, layers, hidden, hidden_layers, Affine())), shape
    )


def iaf(shape: Sequence[int], layers: int = 6, hidden: int = 64, hidden_layers: int = 2) -> Flow:
    """Inverse autoregressive flow (Kingma et al. 2016): samples in one pass a layer, densities of data in D.

    The arguments are those of ``maf``, whose layers it turns round.
    """
    dimensions = check_vectors("iaf", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
    maps = autoregressive_layers(dimensions, layers, hidden, hidden_layers, Affine())
    return Flow(Composition([Inverse(m) for m in maps]), shape)
