"""``demo.py`` without a browser, and without the packages that it needs."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from commands.test_readme_commands import PAGES, page_commands
from glow.commands.main import compose
from glow.demo.serve import demo
from glow.errors import UsageError


@pytest.mark.parametrize("command", page_commands("demo", *PAGES))
def test_commands_of_the_pages(command: str) -> None:
    assert compose("demo", shlex.split(command)[2:]).host


def test_help() -> None:
    command = [sys.executable, "demo.py", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "python demo.py ckpt=outputs/NAME" in result.stdout


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match="needs the extra `demo`: make demo"):
        demo(compose("demo", [f"output_dir={tmp_path}"]))
