"""scripts/estimate.py: its formulas on cases that a pencil can do, and its table."""

import re
import runpy
import sys

import pytest

from glow.commands.main import CONF

SCRIPT = CONF.parent / "scripts" / "estimate.py"


@pytest.fixture(scope="module")
def estimate() -> dict:
    return runpy.run_path(str(SCRIPT))


def test_formulas(estimate: dict) -> None:
    assert estimate["all_reduce"](1, 1e9, 1e9, 1.0) == 0
    assert estimate["all_reduce"](4, 8e9, 4e9, 0.5) == pytest.approx(2 * 3 / 4 * 2 + 6 * 0.5)
    assert estimate["compute"](64, 128.0) == 0.5
    # 256 images in 2 s, of which 1 s is fixed: 64 images take 1 + 64/256 s.
    assert estimate["compute"](64, 128.0, 1.0, 256) == pytest.approx(1.25)
    assert estimate["exposed"](3.0, 3.0, 0.0) == 3
    assert estimate["exposed"](3.0, 3.0, 1.0) == 1
    assert estimate["exposed"](1.0, 3.0, 1.0) == 0


def run(estimate: dict, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["estimate.py", *arguments])
    estimate["main"]()


def test_table(estimate: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ("model.depth=1", "model.width=4", "dataset.batch_size=64", "fit.max_epochs=100")
    run(estimate, monkeypatch, "--images-per-s", "100", "--latency-us", "0", *tiny)
    printed = capsys.readouterr().out
    rows = [
        [c.strip() for c in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("| ")
    ]
    assert [r[0] for r in rows[1:]] == [str(2**k) for k in range(10)]
    # 21 steps an epoch of 64 images at 100 a second
    assert rows[1][:5] == ["1", "1", "64", "2,100", "640.0"]
    assert rows[1][7] == f"{2100 * 0.64 / 3600:.2f}"
    assert rows[4][:5] == ["8", "1", "8", "2,100", "80.0"]
    one, all_of_them = re.search(r"a checkpoint ([\d.]+) MB, 4 at most: ([\d.]+) MB", printed).groups()
    assert float(all_of_them) == pytest.approx(4 * float(one), abs=0.3)  # both are rounded
    assert rows[-1][2] == "64 does not divide"
    run(estimate, monkeypatch, "--images-per-s", "100", "--per-gpu", "4", "--activations-mb", "2", *tiny)
    printed = capsys.readouterr().out
    assert "activations 2.00 MB per image" in printed
    assert "| 512  | 64" in printed


def test_errors(estimate: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--overlap", "2"], "from 0 to 1"),
        (["dataset=two_moons"], "images only"),
        (["--fixed-ms", "1e9"], "more than the measured step"),
    ):
        with pytest.raises(SystemExit):
            run(estimate, monkeypatch, "--images-per-s", "9", *arguments)
        assert message in capsys.readouterr().err
