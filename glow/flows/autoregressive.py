"""Autoregressive flows of vectors, in either direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from glow.bijections import Affine, Autoregressive, Bijection, Elementwise, Inverse
from glow.flows.flow import Flow
from glow.flows.vectors import check_vectors, vector_flow
from glow.networks import MADE


def autoregressive_layers(
    dimensions: int, layers: int, hidden: int, hidden_layers: int, elementwise: Elementwise, context: int = 0
) -> list[Bijection]:
    """``layers`` maps, every other one from the last dimension to the first."""
    order = torch.arange(dimensions)[None]
    return [
        Autoregressive(
            MADE(
                dimensions,
                elementwise.parameters,
                hidden,
                hidden_layers,
                order.flip(1) if i % 2 else order,
                context=context,
            ),
            elementwise,
        )
        for i in range(layers)
    ]


def maf(
    shape: Sequence[int],
    layers: int = 6,
    hidden: int = 64,
    hidden_layers: int = 2,
    base: str = "normal",
    components: int = 8,
) -> Flow:
    """Masked autoregressive flow (Papamakarios et al. 2017): densities in one pass a layer, samples in D.

    Args:
        shape: (D,), at least two dimensions.
        layers: number of affine autoregressive maps; the order of the dimensions turns round between them.
        hidden: size of the hidden layers of each map's ``MADE``.
        hidden_layers: number of those.
        base: a key of ``BASES``.
        components: of a mixture as the base.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    dimensions = check_vectors("maf", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
    maps = autoregressive_layers(dimensions, layers, hidden, hidden_layers, Affine())
    return vector_flow(maps, shape, dimensions, base, components)


def iaf(
    shape: Sequence[int],
    layers: int = 6,
    hidden: int = 64,
    hidden_layers: int = 2,
    base: str = "normal",
    components: int = 8,
) -> Flow:
    """Inverse autoregressive flow (Kingma et al. 2016): samples in one pass a layer, densities of data in D.

    The arguments are those of ``maf``, whose layers it turns round.
    """
    dimensions = check_vectors("iaf", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
    maps = autoregressive_layers(dimensions, layers, hidden, hidden_layers, Affine())
    return vector_flow([Inverse(m) for m in maps], shape, dimensions, base, components)
