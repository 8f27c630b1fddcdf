"""The README's Python runs, and its figures are those of the code."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from glow.commands.main import CONF
from glow.evaluation.findings import THRESHOLDS
from glow.flows import glow, realnvp

README = (CONF.parent / "README.md").read_text()
FLOWS = (CONF.parent / "docs" / "flows.md").read_text()


def test_the_python_runs(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after another, with a run where they expect one."""
    shutil.copytree(tiny_run, tmp_path / "outputs" / "fashion_mnist_20min")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    scope: dict[str, Any] = {"torch": torch}
    for code in blocks:
        exec(code, scope)


def test_the_thresholds_of_the_diagnostics() -> None:
    table = (CONF.parent / "docs" / "evaluation.md").read_text()
    for name, (value, meaning) in THRESHOLDS.items():
        assert f"| `{name}` | {value:g} | {meaning} |" in table


def test_the_parameter_counts() -> None:
    def millions(flow: torch.nn.Module) -> float:
        return sum(p.numel() for p in flow.parameters()) / 1e6

    with torch.device("meta"):
        assert f"{millions(glow((3, 32, 32))):.1f} M at 3x32x32" in README
        assert f"{millions(glow((1, 28, 28), depth=16, width=64)):.1f} M at 1x28x28" in README
        assert f"{millions(realnvp((2,))):.2f} M" in README


def test_its_pictures_exist() -> None:
    shown = re.findall(r"!\[.*?\]\((.*?)\)", README)
    shown += [f"docs/{path}" for path in re.findall(r"!\[.*?\]\((.*?)\)", FLOWS)]
    for path in shown:
        size = (CONF.parent / path).stat().st_size
        assert 1_000 < size < 300_000, path


def test_nothing_was_left_to_fill_in() -> None:
    assert "@" not in README
    assert not re.search(r"\b[A-Z]+_(TABLE|TEXT|ENERGY)\b", FLOWS)
