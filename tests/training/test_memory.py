"""Memory does not grow."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glow.training import MaximumLikelihood


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_memory_is_flat_over_two_thousand_steps_and_fifty_validations(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the tenth validation to the last it grows by less than a hundredth."""
    sizes: list[int] = []

    def measure(self: MaximumLikelihood) -> None:
        gc.collect()
        sizes.append(resident())

    monkeypatch.setattr(MaximumLikelihood, "on_validation_end", measure)
    results = run(
        "fit.max_epochs=50", "dataset.batch_size=32", "model.depth=1", "model.width=8", "callbacks.estimate=null",
        "callbacks.pictures=null", "fit.validate_every=1",
    )  # fmt: skip
    assert results["steps"] >= 2000
    assert len(sizes) == 50
    assert max(sizes[10:]) < 1.01 * max(sizes[:10])
