"""What the flows of vectors have in common."""

import math
from collections.abc import Callable, Sequence

from glow.bijections import (
    Bijection,
    Composition,
    Coupling,
    Elementwise,
    Flatten,
    Gaussianize,
    Halves,
    Sigmoid,
)
from glow.distributions.dequantization import Dequantization
from glow.distributions.latent import Base, Mixture, StandardNormal, StudentT, Uniform
from glow.errors import UsageError, check_choice, check_positive
from glow.networks import MLP

BASES: dict[str, Callable[[int, int], Base]] = {
    "normal": lambda dimensions, components: StandardNormal(),
    "uniform": lambda dimensions, components: Uniform(),
    "mixture": Mixture,
    "student_t": lambda dimensions, components: StudentT(),
}
"""What ``base`` may be; ``uniform`` is on the unit cube, onto which the flow ends in a sigmoid."""


def check_vectors(family: str, event_shape: Sequence[int], **positive: object) -> int:
    """The number of dimensions D >= 2; refuses other shapes, and sizes that are no positive integers."""
    if len(event_shape) != 1 or event_shape[0] < 2:
        raise UsageError(
            f"{family} models vectors of two or more dimensions, but the data has shape {tuple(event_shape)}"
        )
    for name, value in positive.items():
        check_positive(name, value, integer=True)
    return event_shape[0]


def check_vectors_or_images(
    family: str, event_shape: Sequence[int], grey_levels: int | None, **positive: object
) -> tuple[int, Dequantization | None]:
    """The number of dimensions D, of images flattened, and their dequantization; refuses what ``check_vectors`` does."""
    if len(event_shape) != 3:
        return check_vectors(family, event_shape, **positive), None
    if grey_levels is None:
        raise UsageError(f"{family} needs the number of grey_levels of images")
    return check_vectors(family, (math.prod(event_shape),), **positive), Dequantization(grey_levels)


def alternating(
    dimensions: int, layers: int, hidden: int, hidden_layers: int, elementwise: Elementwise, context: int = 0
) -> list[Coupling]:
    """Couplings of which even ones move the second half, odd ones the first; their networks see ``context`` more numbers."""
    first = dimensions // 2
    second = dimensions - first
    couplings = []
    for i in range(layers):
        given, moved = (second, first) if i % 2 else (first, second)
        network = MLP(given, elementwise.parameters * moved, hidden, hidden_layers, context)
        couplings.append(Coupling(Halves(swap=i % 2 == 1), network, elementwise))
    return couplings


def chain(
    maps: Sequence[Bijection], event_shape: Sequence[int], base: str, marginals: int | None = None
) -> Composition:
    """The maps of vectors one after another; images are flattened first, and a uniform base needs a sigmoid.

    With ``marginals`` grey levels, images begin with the marginal distribution of each channel.

    Raises:
        UsageError: no such base.
    """
    check_choice("base", base, BASES)
    before = [] if len(event_shape) == 1 else [Flatten(tuple(event_shape))]
    after = [Sigmoid()] if base == "uniform" else []
    whole = Composition([*before, *maps, *after])
    return (
        Composition([Gaussianize(event_shape[0], marginals), whole], numbered=False) if marginals else whole
    )
