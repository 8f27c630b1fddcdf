"""Several processes are one training: they hold the same numbers, and those of a single one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from glow.errors import UsageError

SHORT = ("callbacks.pictures=null", "callbacks.estimate=null", "fit.max_epochs=2", "fit.max_steps=-1")
IMAGES = (
    "dataset.batch_size=64", "model.levels=2", "model.depth=2", "model.width=8", "model.permutation=shuffle", "objective.shift=0.1",
    "dataset.val_size=141", "trainer.limit_train_batches=8", "callbacks.ema.decay=0.9",  # 1,296 examples divide by 2
)  # fmt: skip
POINTS = (
    "dataset=two_moons",
    "model.hidden=16",
    "dataset.train_size=512",
    "dataset.val_size=64",
    "dataset.test_size=64",
)


def record(folder: Path, devices: int, *overrides: str) -> list[dict[str, Any]]:
    """What every process wrote."""
    program = Path(__file__).with_name("ranks.py")
    command = [sys.executable, str(program), str(folder), str(devices), "trainer.precision=64-true", *SHORT]
    result = subprocess.run(
        [*command, *overrides], capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [json.loads((folder / f"rank{i}.json").read_text()) for i in range(devices)]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_agree_with_each_other_and_with_one(tmp_path: Path, accumulate: int) -> None:
    """Weights, permutations and averages bit by bit after initialization and every epoch; losses to 1e-8."""
    settings = (*IMAGES, f"trainer.accumulate_grad_batches={accumulate}")
    (one,) = record(tmp_path / "one", 1, *settings)
    first, second = record(tmp_path / "two", 2, *settings)
    assert first["hashes"] == second["hashes"]
    assert len(first["hashes"]) == 3  # after initialization and two epochs
    assert len(first["hashes"][0]) == 2  # of the weights and of their averages
    assert len({h for hashes in first["hashes"] for h in hashes}) >= 5  # they do change
    assert len(one["losses"]) == len(first["losses"]) == 16
    assert first["losses"] == pytest.approx(one["losses"], rel=0, abs=1e-8)


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("change", ["resilience=none", "reversed"])
def test_they_do_so_without_resilience_and_in_another_order_of_callbacks(tmp_path: Path, change: str) -> None:
    first, second = record(tmp_path / "two", 2, *IMAGES, change)
    (one,) = record(tmp_path / "one", 1, *IMAGES)
    assert first["hashes"] == second["hashes"]
    assert len(first["hashes"]) == 3
    assert first["losses"] == pytest.approx(one["losses"], rel=0, abs=1e-8)


@pytest.mark.slow
def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    """Of points, which meet no noise that a batch would draw."""
    (whole,) = record(tmp_path / "whole", 1, *POINTS, "dataset.batch_size=64")
    accumulated = record(
        tmp_path / "parts", 2, *POINTS, "dataset.batch_size=32", "trainer.accumulate_grad_batches=2"
    )[0]["losses"]
    means = [(a + b) / 2 for a, b in zip(accumulated[::2], accumulated[1::2], strict=True)]
    assert means == pytest.approx(whole["losses"], rel=0, abs=1e-8)


def test_processes_that_continue_different_checkpoints_are_stopped(
    run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ahead(self: SingleDeviceStrategy, obj: Any, src: int = 0) -> Any:
        return obj + 1 if type(obj) is int else obj  # the first process has done a step more

    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", ahead)
    with pytest.raises(UsageError, match="is output_dir the same folder on every node"):
        run(
            "debug=fast",
            "model.depth=1",
            "model.width=4",
            "callbacks.pictures=null",
            "callbacks.estimate=null",
        )
