"""Figures that no change of the code may change. Adapt the adapters of ``figures.py``, never the JSON files."""

import json
from pathlib import Path
from typing import Any

import pytest

from . import figures


def golden(name: str) -> dict[str, Any]:
    return json.loads((Path(__file__).parent / f"{name}.json").read_text())


WEIGHTS, DENSITIES = golden("weights"), golden("densities")


def test_nothing_is_left_out() -> None:
    assert set(WEIGHTS) == set(DENSITIES) == set(figures.MODELS)


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
        # Samples are drawn in float32, where processors differ in the last bits.
        tolerance = 1e-5 if key.startswith("sample") else 1e-10
        assert figures.close(found[key], expected, tolerance), (key, found[key], expected)


def test_the_paper_s_recipe() -> None:
    assert figures.settings(["experiment=cifar10_paper"]) == golden("cifar10_paper")
