"""Neural spline flows for vectors (Durkan et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from glow.bijections import ActNorm, Bijection, Composition, Spline, SplineCoupling
from glow.errors import check_bool
from glow.flow import Flow
from glow.models.autoregressive import autoregressive_layers
from glow.models.vectors import alternating, check_vectors
from glow.networks import MLP


def nsf(
    shape: Sequence[int],
    layers: int = 6,
    hidden: int = 64,
    hidden_layers: int = 2,
    bins: int = 8,
    bound: float = 5.0,
    autoregressive: bool = False,
) -> Flow:
    """Rational-quadratic splines with linear tails, in couplings or autoregressive.

    An ``ActNorm`` comes first: it brings the data into the interval that the splines bend.

    Args:
        shape: (D,), at least two dimensions.
        layers: number of couplings, or of autoregressive maps.
        hidden: size of the hidden layers of each one's network.
        hidden_layers: number of those.
        bins: of a spline.
        bound: a spline bends [-bound, bound] and is the identity outside.
        autoregressive: not couplings but ``MADE``; samples then take D passes a layer.

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
    return Flow(Composition([ActNorm(dimensions), *maps]), shape)
