"""Write the golden figures: ``python -m tests.golden.make``. They are of commit 92a3e91; a refactoring does not make them anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from . import figures

HERE = Path(__file__).parent


def rounded(value: Any) -> Any:
    """To 12 significant digits."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


def write(name: str, rows: dict[str, Any]) -> None:
    """One line a row."""
    lines = [f"{json.dumps(k)}: {json.dumps(rounded(v), separators=(',', ':'))}" for k, v in rows.items()]
    (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    torch.set_num_threads(1)
    write("weights", {name: figures.weights(name) for name in figures.MODELS})
    write("densities", {name: figures.densities(name) for name in figures.MODELS})
    with tempfile.TemporaryDirectory() as folder:
        write("losses", {run: figures.losses(run, Path(folder) / run) for run in figures.RUNS})
    # Datasets against digits, experiments against their dataset, of which nothing is left but what they change.
    tables = {d: figures.configurations(d) for d in figures.DATASETS}
    reference = tables["digits"]["none"]
    rows: dict[str, Any] = {"reference": reference}
    for dataset, table in tables.items():
        rows[dataset] = {
            k: figures.difference(v, reference if k == "none" else table["none"]) for k, v in table.items()
        }
    rows["experiments"] = {k: figures.difference(v, reference) for k, v in figures.experiments().items()}
    write("configurations", rows)


if __name__ == "__main__":
    main()
