"""The first neural flows: planar and radial (Rezende & Mohamed 2015)."""

from collections.abc import Callable, Sequence

from glow.bijections import Bijection, Composition, Inverse, Planar, Radial
from glow.errors import check_choice
from glow.flows.flow import Flow
from glow.flows.vectors import BASES, chain, check_vectors


class PlanarFlow(Flow):
    """Planar maps. One direction is a formula, the other a bisection per map.

    Args:
        event_shape: (D,), at least two dimensions.
        layers: number of maps.
        direction: which one is the formula: ``density`` for maximum likelihood, ``sampling`` for reverse KL, for
            which the paper has them.
        base: a key of ``BASES``.
        components: of a mixture as the base.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> import torch
    >>> PlanarFlow((2,), layers=4).log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int = 32,
        direction: str = "density",
        base: str = "normal",
        components: int = 8,
    ) -> None:
        d = check_vectors("PlanarFlow", event_shape, layers=layers)
        maps = _directed(Planar, d, layers, direction, event_shape, base)
        super().__init__(maps, event_shape, base=BASES[base](d, components))


class RadialFlow(Flow):
    """Radial maps; the arguments are those of ``PlanarFlow``. Both directions are formulas.

    >>> RadialFlow((2,), layers=4).sample(3).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int = 32,
        direction: str = "density",
        base: str = "normal",
        components: int = 8,
    ) -> None:
        d = check_vectors("RadialFlow", event_shape, layers=layers)
        maps = _directed(Radial, d, layers, direction, event_shape, base)
        super().__init__(maps, event_shape, base=BASES[base](d, components))


def _directed(
    kind: Callable[[int], Bijection],
    dimensions: int,
    layers: int,
    direction: str,
    event_shape: Sequence[int],
    base: str,
) -> Composition:
    check_choice("direction", direction, ("density", "sampling"))
    maps = [kind(dimensions) for _ in range(layers)]
    return chain(maps if direction == "density" else [Inverse(m) for m in maps], event_shape, base)
