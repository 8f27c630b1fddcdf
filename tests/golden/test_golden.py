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
LATE = {"digits": 5e-3, "realnvp_digits": 1e-3}
"""Tolerances after ten steps, where rounding has grown: two threads change the last losses of digits by 6e-4, another
processor's instructions by 1e-3, those of realnvp_digits by 8e-5; of the others by less than 3e-6."""

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


@pytest.mark.filterwarnings("ignore")  # of how long the whole run would take, on a busy machine
@pytest.mark.parametrize("run", LOSSES)
def test_losses(run: str, tmp_path: Path, one_thread: None) -> None:
    found, expected = figures.losses(run, tmp_path), LOSSES[run]
    assert torch.get_num_threads() == 1
    assert figures.close(found[:10], expected[:10], 1e-4), (found, expected)
    assert figures.close(found, expected, LATE.get(run, 1e-4)), (found, expected)


def check(dataset: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Experiments are stored as differences from the dataset without one, datasets as those from the reference."""
    none = figures.restored(expected.get("none", {}), REFERENCE)
    wrong = {}
    for experiment, row in expected.items():
        reference = REFERENCE if experiment == "none" else none
        full = figures.expected_settings(row, reference, (dataset, experiment))
        if change := figures.difference(found[experiment], full):
            wrong[experiment] = {k: (v, full.get(k, figures.ABSENT)) for k, v in change.items()}
    assert not wrong, f"(found, expected): {wrong}"


@pytest.mark.parametrize("dataset", sorted(set(CONFIGURATIONS) - {"reference", "experiments"}))
def test_configurations(dataset: str) -> None:
    check(dataset, figures.configurations(dataset), CONFIGURATIONS[dataset])


def test_experiments() -> None:
    check("experiments", figures.experiments(), CONFIGURATIONS["experiments"])
