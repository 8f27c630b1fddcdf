"""The comparison with zuko, at a tiny size; in this process, because starting another one takes longer than it does."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glow.commands.main import CONF

PAIRS = ("realnvp", "nsf", "nsf-ar", "maf")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | int | None]:
    """``compare("--steps", "20", ...)``: what the script exits with."""

    def start(*arguments: str) -> str | int | None:
        monkeypatch.setattr(sys, "argv", ["compare_zuko.py", "--threads", "1", *arguments])
        with pytest.raises(SystemExit) as exit_:
            runpy.run_path(str(CONF.parent / "scripts" / "compare_zuko.py"), run_name="__main__")
        return exit_.value.code

    return start


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_every_pair(
    compare: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "zuko.json"
    assert compare("--steps", "20", "--seeds", "2", "--out", str(out)) == 0
    models = json.loads(out.read_text())["models"]
    assert list(models) == [f"{whose} {pair}" for pair in PAIRS for whose in ("ours", "zuko")]
    printed = capsys.readouterr().out
    for name, (first, second) in models.items():
        assert printed.count(f"\n| {name} | {first['parameters']:,} | ") == 1
        assert first["parameters"] == second["parameters"]
        assert first["test_nll"] != second["test_nll"]
        for run in (first, second):
            assert 0 < run["test_nll"] < 2.1  # a standard normal has 2.4
            assert 0 < run["test_nll_error"] < 0.05
            assert min(run["train_seconds"], run["samples_per_second"]) > 0
    # The same networks: an ActNorm of two shifts and two scales is all that ours have more.
    for pair, more in zip(PAIRS, (0, 4, 4, 0), strict=True):
        assert models[f"ours {pair}"][0]["parameters"] == models[f"zuko {pair}"][0]["parameters"] + more


@pytest.mark.slow
def test_continuous_time(compare: Callable[..., object], tmp_path: Path) -> None:
    assert compare("--steps", "2", "--only", "ffjord", "--out", str(tmp_path / "zuko.json")) == 0
    models = json.loads((tmp_path / "zuko.json").read_text())["models"]
    [ours], [theirs] = models["ours ffjord"], models["zuko ffjord"]
    # The same network but for time: gates, their biases and shifts, or six numbers more that the first layer sees.
    assert ours["parameters"] - 3 * (64 + 64 + 2) == theirs["parameters"] - 6 * 64
    assert all(1 < run["test_nll"] < 3 for run in (ours, theirs))


def test_a_seed_decides_everything_but_time(compare: Callable[..., object], tmp_path: Path) -> None:
    nll = []
    for i in range(2):
        out = tmp_path / f"{i}.json"
        compare("--steps", "3", "--only", "zuko maf,ours maf", "--out", str(out))
        nll.append([run["test_nll"] for [run] in json.loads(out.read_text())["models"].values()])
    assert len(nll[0]) == 2
    assert nll[0] == nll[1]


def test_bad_arguments(compare: Callable[..., object], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--steps", "0") == 2
    assert "--steps: must be above zero" in capsys.readouterr().err
    assert str(compare("--only", "glow")).startswith("--only: no model has glow in its name: ours realnvp")


def test_without_zuko_it_says_how_to_get_it(
    compare: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    assert str(compare("--steps", "1")).startswith("zuko is needed: make install brings it")
