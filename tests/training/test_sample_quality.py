"""`sample_quality=logged`: how good samples are, in the logs of a run."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glow.commands.main import CONF
from glow.errors import UsageError
from glow.evaluation.classifier import Classifier

FIGURES = {"quality/fid", "quality/kid", "quality/kid_sd", "quality/precision", "quality/recall"}
TINY = (
    "model.depth=1", "model.width=4", "model.noise_width=0", "sample_quality=logged", "callbacks.sample_quality.n=30", "callbacks.sample_quality.every_n_epochs=1",
    "callbacks.pictures=null", "callbacks.estimate=null", "fit.max_epochs=2", "trainer.limit_train_batches=2", "logger=csv", "name=run",
)  # fmt: skip


@pytest.fixture
def features(tmp_path: Path) -> str:
    """The setting that names a classifier, which was never trained."""
    file = tmp_path / "digits.safetensors"
    Classifier(10, width=4).eval().save(file)
    return f"callbacks.sample_quality.features={file}"


def logged(folder: Path) -> list[dict[str, float]]:
    """The rows of figures in a run's log."""
    with next(folder.rglob("metrics.csv")).open() as file:
        rows = [{k: float(v) for k, v in row.items() if v and k in FIGURES} for row in csv.DictReader(file)]
    return [row for row in rows if row]


def test_figures_after_every_nth_epoch(
    run: Callable[..., dict[str, Any]], tmp_path: Path, features: str
) -> None:
    """Or the next one with a validation, which the digits have after every second: after 4 and 6 epochs."""
    run(*TINY, features, "callbacks.sample_quality.every_n_epochs=3", "fit.max_epochs=6")
    first, second = logged(tmp_path / "outputs/run")
    assert set(first) == set(second) == FIGURES
    assert first["quality/fid"] > 0
    assert first != second  # the weights have moved


def test_what_cannot_be_measured(run: Callable[..., dict[str, Any]], features: str) -> None:
    with pytest.raises(UsageError, match="there is no classifier of digits"):
        run(*TINY)
    for n, message in (("0", "must be an integer above zero"), ("9", "must be at least 10, got 9")):
        with pytest.raises(UsageError, match=rf"callbacks\.sample_quality\.n {message}"):
            run(*TINY, features, f"callbacks.sample_quality.n={n}")
    points = [o for o in TINY if not o.startswith("model.")]
    with pytest.raises(UsageError, match="this model is not of images"):
        run(*points, features, "dataset=two_moons")


@pytest.mark.slow
def test_on_two_devices(tmp_path: Path, features: str) -> None:
    """The figures are there once, after the validation of epoch 2."""
    command = [
        sys.executable, str(CONF.parent / "train.py"), f"output_dir={tmp_path}/outputs", *TINY, features, "trainer.devices=2",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert [set(row) for row in logged(tmp_path / "outputs/run")] == [FIGURES]
    assert json.loads((tmp_path / "outputs/run/results.json").read_text())["devices"] == 2
