"""The Python of README and CONTRIBUTING runs, and the figures and links of the pages are those of the code."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glow.commands.main import CONF
from glow.evaluation.findings import THRESHOLDS
from glow.flows import Glow, RealNVP

ROOT = CONF.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
FLOWS = (ROOT / "docs" / "flows.md").read_text()


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.usefixtures("one_thread")
def test_the_python_runs(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after another, with a run where they expect one."""
    shutil.copytree(tiny_run, tmp_path / "outputs" / "digits-glow_small")
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(README)
    assert len(blocks) == 2
    scope: dict[str, Any] = {}
    for code in blocks:
        exec(code, scope)


def test_the_classes_of_contributing_run(
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All of them in one run, by the arguments of the commands below them."""
    [code] = python_blocks(CONTRIBUTING)
    imports = (
        "import lightning as L, torch; from torch import nn; from glow.data.base import ArrayData, Examples\n"
    )
    (tmp_path / "mypkg.py").write_text(imports + code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mypkg", raising=False)
    commands = re.findall(r"python train\.py (.*)", CONTRIBUTING)
    own = [argument for command in commands for argument in shlex.split(command) if "mypkg" in command]
    assert len(own) == 6
    try:
        results = run(
            *own, "debug=fast", "model.depth=1", "callbacks.estimate=null", "callbacks.pictures=null"
        )
    finally:
        sys.modules.pop("mypkg", None)
    assert results["steps"] == 2
    assert "2 steps\n" in capsys.readouterr().out


def test_the_thresholds_of_the_diagnostics() -> None:
    table = (ROOT / "docs" / "evaluation.md").read_text()
    for name, (value, meaning) in THRESHOLDS.items():
        assert f"| `{name}` | {value:g} | {meaning} |" in table


def test_the_parameter_counts() -> None:
    def millions(flow: torch.nn.Module) -> float:
        return sum(p.numel() for p in flow.parameters()) / 1e6

    with torch.device("meta"):
        assert f"{millions(Glow((3, 32, 32))):.1f} M at 3x32x32" in README
        more = {"gaussianize": True, "position": True, "class_conditional": True, "classes": 10}
        small = Glow((1, 28, 28), depth=16, width=64, **more)
        assert f"{millions(small):.1f} M at 1x28x28" in README
        assert f"{millions(RealNVP((2,))):.2f} M" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_links(page: Path) -> None:
    """Pictures exist and are small; links lead to files, and to headings that these have."""
    for picture, target in re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if picture:
            assert 1_000 < file.stat().st_size < 300_000, target
        if heading:
            headings = re.findall(r"^#+ (.*)", file.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], target


def test_nothing_was_left_to_fill_in() -> None:
    assert "@" not in README
    assert not re.search(r"\b[A-Z]+_(TABLE|TEXT|ENERGY)\b", FLOWS)
