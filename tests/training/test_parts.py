"""Optimizers, schedules, averages and progress."""

import io
import math
import re
import sys
from typing import Any

import pytest
import torch
from torch import nn

from glow.errors import UsageError
from glow.training import EMA
from glow.training.optimizers import DECAYS, build_optimizer, build_schedule, factor
from glow.training.progress import clock

PARAMETERS = [nn.Parameter(torch.zeros(1))]


class TestOptimizers:
    @pytest.mark.parametrize(
        ("name", "cls"),
        [("adamax", torch.optim.Adamax), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
    )
    def test_by_name(self, name: str, cls: type) -> None:
        optimizer = build_optimizer(
            PARAMETERS, {"name": name, "lr": 0.1, "betas": [0.8, 0.9], "decay": "none"}
        )
        assert type(optimizer) is cls
        assert list(optimizer.defaults["betas"]) == [0.8, 0.9]

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"name": "adamx", "lr": 1},
                "optimizer.name='adamx' is not one of adamax, adam, adamw; did you mean",
            ),
            ({"name": "adam", "lr": -1}, "optimizer.lr must be a number above zero, got -1"),
            (
                {"name": "adam", "lr": 1, "beta": 2},
                "optimizer.beta is not an option of adam; did you mean 'betas'",
            ),
            ({"name": "adam", "lr": 1, "eps": -1.0}, "optimizer: Invalid epsilon"),
        ],
    )
    def test_bad_ones(self, config: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            build_optimizer(PARAMETERS, config)


class TestSchedule:
    def test_warm_up_is_linear_per_step(self) -> None:
        at = factor(9, DECAYS["none"])
        assert [at(s) for s in (0, 4, 9, 10, 10_000)] == pytest.approx([0.1, 0.5, 1, 1, 1])

    def test_no_warm_up(self) -> None:
        assert factor(0, DECAYS["none"])(0) == 1

    def test_linear_ends_at_zero(self) -> None:
        at = factor(0, DECAYS["linear"], 100)
        assert [at(s) for s in (0, 25, 100, 200)] == pytest.approx([1, 0.75, 0, 0])

    def test_a_decay_ends_with_the_steps_or_the_time_whichever_is_first(self) -> None:
        used = 0.0
        at = factor(0, DECAYS["linear"], 100, lambda: used)
        assert at(10) == pytest.approx(0.9)
        used = 0.5
        assert at(10) == pytest.approx(0.5)
        assert at(70) == pytest.approx(0.3)
        used = 1.0
        assert at(10) == 0

    def test_a_time_limit_is_an_end_and_without_a_decay_nobody_looks_at_it(self) -> None:
        optimizer = torch.optim.Adam(PARAMETERS, lr=1.0)
        build_schedule(optimizer, {"decay": "cosine"}, 10, math.inf, lambda: 0.5)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)

        def unwanted() -> float:
            raise AssertionError

        build_schedule(optimizer, {"decay": "none"}, 10, math.inf, unwanted)

    def test_cosine_ends_at_zero(self) -> None:
        at = factor(10, DECAYS["cosine"], 110)
        assert [at(s) for s in (10, 60, 110, 200)] == pytest.approx([1, 0.5, 0, 0])

    @pytest.mark.parametrize(
        ("config", "total", "message"),
        [
            ({"decay": "cosin"}, 10, "optimizer.decay='cosin' is not one of none, cosine"),
            ({"decay": "cosine"}, math.inf, "optimizer.decay=cosine needs an end"),
            ({"warmup_epochs": -1}, 10, "optimizer.warmup_epochs must be a number of at least zero"),
        ],
    )
    def test_bad_ones(self, config: dict[str, Any], total: float, message: str) -> None:
        optimizer = torch.optim.Adam(PARAMETERS)
        with pytest.raises(UsageError, match=message):
            build_schedule(optimizer, config, 10, total)


class TestEMA:
    def test_the_decay_warms_up(self) -> None:
        """After n updates with weight n the average follows the recursion with d = min(d, (1+n)/(10+n))."""
        ema, averaged = EMA(decay=0.9), [torch.zeros(1)]
        expected = 0.0
        for n in range(200):
            ema._latest_update_step = n
            ema._average(averaged, [torch.full((1,), float(n))], n)
            decay = min(0.9, (1 + n) / (10 + n))
            expected = decay * expected + (1 - decay) * n
        assert averaged[0].item() == pytest.approx(expected, rel=1e-5)

    def test_bad_decay(self) -> None:
        with pytest.raises(UsageError, match=r"callbacks.ema.decay must be in \[0, 1\), got 1"):
            EMA(decay=1)


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
