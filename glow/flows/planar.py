"""The first neural flows: planar and radial (Rezende & Mohamed 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glow.bijections import Bijection, Inverse, Planar, Radial
from glow.errors import check_choice
from glow.flows.flow import Flow
from glow.flows.vectors import check_vectors, vector_flow


def planar(
    shape: Sequence[int],
    layers: int = 32,
    fast: str = "density",
    base: str = "normal",
    components: int = 8,
) -> Flow:
    """Planar maps. One direction is a formula, the other a bisection per map.

    Args:
        shape: (D,), at least two dimensions.
        layers: number of maps.
        fast: which direction is the formula: ``density`` for maximum likelihood, ``sampling`` for reverse KL, for
            which the paper has them.
        base: a key of ``BASES``.
        components: of a mixture as the base.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    return _chain("planar", Planar, shape, layers, fast, base, components)


def radial(
    shape: Sequence[int],
    layers: int = 32,
    fast: str = "density",
    base: str = "normal",
    components: int = 8,
) -> Flow:
    """Radial maps; the arguments are those of ``planar``. Both directions are formulas."""
    return _chain("radial", Radial, shape, layers, fast, base, components)


def _chain(
    family: str,
    kind: Callable[[int], Bijection],
    shape: Sequence[int],
    layers: int,
    fast: str,
    base: str,
    components: int,
) -> Flow:
    dimensions = check_vectors(family, shape, layers=layers)
    check_choice("fast", fast, ("density", "sampling"))
    maps = [kind(dimensions) for _ in range(layers)]
    turned = maps if fast == "density" else [Inverse(m) for m in maps]
    return vector_flow(turned, shape, dimensions, base, components)
