"""What a run shows while it lasts."""

import io
import math
import re
import sys
from typing import Any

import pytest

from glow.training import Throughput
from glow.training.progress import LogLines, clock

from .small import fit, of_digits


class TestProgress:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def test_a_bar_on_a_terminal(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = self.Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        run(
            "model.depth=1", "model.width=8", "fit.max_epochs=2", "callbacks.pictures=null",
            "callbacks.estimate=null",
        )  # fmt: skip
        shown = terminal.getvalue()
        assert "images/s=" in shown
        assert re.search(r"ETA=\d+:\d\d", shown)
        assert "val/bpd=" in shown

    def test_plain_lines_elsewhere(self, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
        run(
            "model.depth=1", "model.width=8", "fit.max_epochs=2", "callbacks.pictures=null",
            "callbacks.estimate=null", "callbacks.progress.every_seconds=0",
        )  # fmt: skip
        lines = capsys.readouterr().out.splitlines()
        pattern = r"step \d+/\d+, epoch \d, (train|val) \d\.\d+ bits/dim, [\d,]+ images/s, ETA \d+:\d\d"
        assert sum(bool(re.fullmatch(pattern, line)) for line in lines) > 5

    def test_none_at_all(self, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
        run("debug=fast", "model.depth=1", "model.width=8", "trainer.enable_progress_bar=false")
        assert "step " not in capsys.readouterr().out.replace("steps", "")


def test_clock() -> None:
    assert [clock(s) for s in (5, 65.4, 3723, math.inf)] == ["0:05", "1:05", "1:02:03", "?"]


def test_log_lines_without_hydra(capsys: pytest.CaptureFixture[str]) -> None:
    fit(of_digits(), LogLines(every_seconds=0), Throughput(), log_every_n_steps=1, enable_progress_bar=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    pattern = (
        r"step \d+/\d+, epoch \d, (train|val)( \d\.\d+ bits/dim)?(, [\d,]+ images/s)?, ETA (\d+:\d\d|\?)"
    )
    assert len(lines) == 12, "eleven steps and a validation"
    assert all(re.fullmatch(pattern, line) for line in lines), lines
