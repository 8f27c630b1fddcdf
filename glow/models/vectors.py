"""What the flows of vectors have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glow.bijections import Coupling
from glow.errors import UsageError, check_positive, check_shape


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
