"""The classifier two-sample test."""

import pytest
import torch

from glow.errors import UsageError
from glow.evaluation.c2st import c2st


def normal(seed: int, n: int = 300, d: int = 2) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_equal_and_different_sets() -> None:
    known = normal(0)
    assert c2st(known, normal(1)) == pytest.approx(0.5, abs=0.06)
    assert c2st(known, normal(1) + 10) > 0.99
    assert c2st(1e-3 * known, 1e-3 * (normal(1) + 10)) > 0.99  # whatever the unit is


def test_a_shift_is_found_as_well_as_can_be() -> None:
    """Two normals a standard deviation apart are told apart with Phi(1/2) = 0.69."""
    shift = torch.tensor([1.0, 0.0])
    assert c2st(normal(0, 1000), normal(1, 1000) + shift) == pytest.approx(0.69, abs=0.03)


@pytest.mark.parametrize(
    ("known", "drawn", "message"),
    [
        (normal(0, 5), normal(1, 5), "ten or more samples"),
        (normal(0, 20), normal(1, 30), r"got \(20, 2\) and \(30, 2\)"),
        (normal(0, 20), normal(1, 20) / 0, "finite"),
    ],
)
def test_refusals(known: torch.Tensor, drawn: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        c2st(known, drawn)
