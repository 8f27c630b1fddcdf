"""Neural spline flows for vectors (Durkan et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from glow.bijections import ActNorm, Bijection, Spline, SplineCoupling
from glow.errors import check_bool
from glow.flows.autoregressive import autoregressive_layers
from glow.flows.flow import Flow
from glow.flows.vectors import alternating, check_vectors, vector_flow
from glow.networks import MLP


def nsf(
    shape: Sequence[int],
    layers: int = 6,
    hidden: int = 64,
    hidden_layers: int = 2,
    bins: int = 16,
    bound: float = 3.0,
    autoregressive: bool = False,
    base: str = "normal",
    components: int = 8,
) -> Flow:
    """Rational-quadratic splines with linear tails, in couplings or autoregressive.

    An ``ActNorm`` comes first: it brings the data into the interval that the splines bend.

    Args:
        shape: (D,), at least two dimensions.
        layers: number of couplings, or of autoregressive maps.
        hidden: size of the hidden layers of each one's network.
        hidden_layers: number of those.
        bins: of a spline.
        bound: a spline bends [-bound, bound] and is the identity outside. Bins where no data is are wasted.
        autoregressive: not couplings but ``MADE``; samples then take D passes a layer.
        base: a key of ``BASES``.
        components: of a mixture as the base.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    dimensions = check_vectors("nsf", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
    check_bool("autoregressive", autoregressive)
    spline = Spline(bins, bound)

    def coupling(given: int, moved: int, swap: bool) -> SplineCoupling:
        return SplineCoupling(MLP(given, spline.parameters * moved, hidden, hidden_layers), spline, swap)

    maps: Sequence[Bijection] = (
        autoregressive_layers(dimensions, layers, hidden, hidden_layers, spline)
        if autoregressive
        else alternating(dimensions, layers, coupling)
    )
    return vector_flow([ActNorm(dimensions), *maps], shape, dimensions, base, components)
