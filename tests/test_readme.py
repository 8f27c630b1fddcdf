"""The README's Python runs, and its figures are those of the code."""

from __future__ import annotations

import re

import torch

from glow.commands.cli import CONF
from glow.models import glow, realnvp

README = (CONF.parent / "README.md").read_text()


def test_the_python_runs() -> None:
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})


def test_the_parameter_counts() -> None:
    def millions(flow: torch.nn.Module) -> float:
        return sum(p.numel() for p in flow.parameters()) / 1e6

    with torch.device("meta"):
        assert f"{millions(glow((3, 32, 32))):.1f} M at 3x32x32" in README
        assert f"{millions(glow((1, 28, 28), depth=16, width=64)):.1f} M at 1x28x28" in README
        assert f"{millions(realnvp((2,))):.2f} M" in README


def test_its_pictures_exist() -> None:
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        size = (CONF.parent / path).stat().st_size
        assert 1_000 < size < 300_000, path


def test_nothing_was_left_to_fill_in() -> None:
    assert "@" not in README
