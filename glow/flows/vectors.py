"""What the flows of vectors have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glow.bijections import Bijection, Composition, Coupling, Flatten, Sigmoid
from glow.distributions.latent import Base, Mixture, StandardNormal, StudentT, Uniform
from glow.errors import UsageError, check_choice, check_positive, check_shape
from glow.flows.dequantization import Dequantization
from glow.flows.flow import Flow

BASES: dict[str, Callable[[int, int], Base]] = {
    "normal": lambda dimensions, components: StandardNormal(),
    "uniform": lambda dimensions, components: Uniform(),
    "mixture": Mixture,
    "student_t": lambda dimensions, components: StudentT(),
}
"""What ``model.base`` may be; ``uniform`` is on the unit cube, onto which the flow ends in a sigmoid."""


def check_vectors(family: str, shape: Sequence[int], **positive: object) -> int:
    """The number of dimensions D >= 2; refuses other shapes, and sizes that are no positive integers."""
    check_shape("shape", shape)
    if len(shape) != 1 or shape[0] < 2:
        raise UsageError(
            f"{family} models vectors of two or more dimensions, but the data has shape {tuple(shape)}"
        )
    for name, value in positive.items():
        check_positive(name, value, integer=True)
    return shape[0]


def alternating(dimensions: int, layers: int, make: Callable[[int, int, bool], Coupling]) -> list[Coupling]:
    """Couplings ``make(given, moved, swap)`` of which even ones move the second half, odd ones the first."""
    first = dimensions // 2
    second = dimensions - first
    return [make(*((second, first) if i % 2 else (first, second)), i % 2 == 1) for i in range(layers)]


def vector_flow(
    maps: Sequence[Bijection],
    shape: Sequence[int],
    dimensions: int,
    base: str,
    components: int,
    grey_levels: int | None = None,
) -> Flow:
    """The maps of ``dimensions`` numbers and a base of that name; images of ``grey_levels`` are flattened first.

    Raises:
        UsageError: no such base, or no number of components.
    """
    check_choice("base", base, BASES)
    before = [] if len(shape) == 1 else [Flatten(tuple(shape))]
    after = [Sigmoid()] if base == "uniform" else []
    dequantize = None if grey_levels is None else Dequantization(grey_levels)
    return Flow(
        Composition([*before, *maps, *after]), shape, dequantize, base=BASES[base](dimensions, components)
    )
