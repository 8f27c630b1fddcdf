"""NICE: additive couplings and one diagonal scaling (Dinh et al. 2014)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glow.bijections import ActNorm, AdditiveCoupling, Bijection, DiagonalScale
from glow.errors import UsageError, check_shape
from glow.flows.flow import Flow
from glow.flows.vectors import alternating, check_vectors, vector_flow
from glow.networks import MLP


def nice(
    shape: Sequence[int],
    layers: int = 6,
    hidden: int = 64,
    hidden_layers: int = 2,
    base: str = "normal",
    components: int = 8,
    grey_levels: int | None = None,
) -> Flow:
    """Additive couplings of alternating halves, then a learned factor for each dimension (section 3.3).

    The paper's prior for images is logistic: that is ``base="uniform"``. Where the paper whitens images, ours begin with
    an ``ActNorm``.

    Args:
        shape: (D,), at least two dimensions, or (C, H, W): images, flattened.
        layers: number of couplings; the paper's is 4 for images.
        hidden: size of the hidden layers of each coupling's network; the paper's is 1000.
        hidden_layers: number of those; the paper's is 5.
        base: a key of ``BASES``.
        components: of a mixture as the base.
        grey_levels: of images.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    check_shape("shape", shape)
    if len(shape) == 3:
        if grey_levels is None:
            raise UsageError("nice needs the number of grey_levels of images")
        vector: Sequence[int] = (math.prod(shape),)
    else:
        vector = shape
    dimensions = check_vectors("nice", vector, layers=layers, hidden=hidden, hidden_layers=hidden_layers)

    def coupling(given: int, moved: int, swap: bool) -> AdditiveCoupling:
        return AdditiveCoupling(MLP(given, moved, hidden, hidden_layers), swap=swap)

    maps: list[Bijection] = [*alternating(dimensions, layers, coupling), DiagonalScale(dimensions)]
    if len(shape) == 3:
        maps = [ActNorm(dimensions), *maps]
    return vector_flow(maps, shape, dimensions, base, components, grey_levels if len(shape) == 3 else None)
