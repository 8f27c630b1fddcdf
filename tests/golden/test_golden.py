"""The figures of commit 92a3e91, before the refactoring. Adapt the adapters of ``figures.py``, never the JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from . import figures


def golden(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text())


WEIGHTS, DENSITIES, LOSSES, CONFIGURATIONS = map(golden, ("weights", "densities", "losses", "configurations"))
REFERENCE = CONFIGURATIONS["reference"]


def test_nothing_is_left_out() -> None:
    assert set(WEIGHTS) == set(DENSITIES) == set(figures.MODELS)
    assert set(LOSSES) == set(figures.RUNS)
    assert set(CONFIGURATIONS) - {"reference", "experiments"} == set(figures.DATASETS)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str) -> None:
    found = figures.weights(name)
    for kind, rows in WEIGHTS[name].items():
        assert not figures.unmatched(found[kind], rows, 1e-5), kind


@pytest.mark.parametrize("name", DENSITIES)
def test_densities(name: str, one_thread: None) -> None:
    found = figures.densities(name)
    assert set(found) == set(DENSITIES[name])
    for key, expected in DENSITIES[name].items():
        # Weights and samples are drawn in float32, where processors differ in the last bits.
        tolerance = 1e-5 if key.startswith("sample") else 1e-10
        assert figures.close(found[key], expected, tolerance), (key, found[key], expected)


@pytest.mark.parametrize("run", LOSSES)
def test_losses(run: str, tmp_path: Path, one_thread: None) -> None:
    found = figures.losses(run, tmp_path)
    assert torch.get_num_threads() == 1
    assert figures.close(found, LOSSES[run], 1e-4), (found, LOSSES[run])


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    none = figures.restored(CONFIGURATIONS["cifar10"].get("none", {}), REFERENCE)
    expected = figures.expected_settings(
        CONFIGURATIONS["cifar10"]["cifar10_paper"], none, ("cifar10", "cifar10_paper")
    )
    assert not figures.difference(figures.settings(["experiment=cifar10_paper"]), expected)
