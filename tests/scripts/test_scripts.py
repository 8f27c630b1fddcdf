"""Scripts, at a tiny size, as a user would start them."""

import importlib
import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from glow.commands.main import CONF

ROOT = CONF.parent


def script(name: str, *arguments: str) -> str:
    command = [sys.executable, f"scripts/{name}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_benchmark(tmp_path: Path) -> None:
    printed = script(  # one thread: on a busy machine, two of them wait for each other in every small operation
        "benchmark", "--size", "tiny", "--rounds", "2", "--threads", "1", "--only", "floor,ours", "--out", str(tmp_path)
    )  # fmt: skip
    result = json.loads((tmp_path / "benchmark.json").read_text())
    assert set(result["speed"]) == {"train", "log-prob", "sample"}
    for rows in result["speed"].values():
        assert {"floor", "floor bf16 channels_last", "ours unfused", "ours", "ours bf16"} <= set(rows)
        for row in rows.values():
            assert row["images/s"] > 0
            assert len(row["seconds"]) == 2
    assert {"ours step", "ours reversible"} <= set(result["speed"]["train"])
    assert result["parameters"]["ours"] == result["parameters"]["ours unfused"]
    memory = result["memory"]
    for case in ("K=2", "K=4", "16x16"):
        assert memory["ours reversible"][case]["kept"] < memory["ours step"][case]["kept"]
        assert memory["ours step"][case]["kept"] < memory["ours"][case]["kept"]
        assert memory["ours"][case]["kept"] <= memory["ours"][case]["peak"]
    assert result["precision"]["log-prob difference, float32 (bits/dim)"] < 1e-4
    assert 0 < result["startup"] < 60
    assert min(Image.open(tmp_path / "benchmark.png").size) > 300
    assert "| train " in printed
    assert "left out" not in printed


def test_some_rows_of_the_gpu_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run of a few, one of which fails; docs/performance.md says how to try out all of them."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    report, part = importlib.import_module("gpu_report"), importlib.import_module("gpu_speed")
    rows = "small, train, ours;small, log-prob, ours graphed;small, sample, ours graphed;kernels, paper, train, ours bf16 graphed"
    real = part.contenders
    broken = {"ours reversible": lambda: 1 / 0}
    monkeypatch.setattr(part, "contenders", lambda *args, **options: {**real(*args, **options), **broken})
    arguments = ["gpu_report.py", "--dry-run", "--part", "speed", "--only", rows, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match="1 rows failed"):
        report.main()
    result = json.loads((tmp_path / "speed.json").read_text())
    found = {row["name"]: row for row in result["rows"]}
    assert "ZeroDivisionError" in found.pop("small, train, ours reversible")["failed"]
    assert set(rows.split(";")) < set(found)
    assert all(row.get("images/s", row["ms"]) > 0 for row in found.values())
    assert len(found["kernels, paper, train, ours bf16 graphed"]["top"]) == 20
    assert "| small, train, ours graphed |" in (tmp_path / "speed.md").read_text()


def test_a_row_of_the_gpu_report_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("gpu_report")
    settings = SimpleNamespace(dry_run=True, minutes=0.002, out=tmp_path, only=None)
    report = module.Report(settings, "speed")
    report.row("slow", lambda: time.sleep(5))
    report.row("late", lambda: {"images/s": 1.0})
    assert [row["failed"] for row in report.rows] == ["TimeoutError: no time left"] * 2


def test_layers_of_the_gpu_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ways of each, of which the kernels run in Triton's interpreter; without it the rows say what they need."""
    kernels = pytest.importorskip("glow.fused.kernels")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module, device = importlib.import_module("gpu_layers"), torch.device("cpu")
    calls = module.layers(2, 3, 4, 16, device)
    assert "left out" in module.measure(calls["columns"], device, False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    try:
        importlib.reload(kernels)
        blocks = dict(kernels.BLOCKS)
        for name, ways in calls.items():
            row = module.measure(ways, device, name in module.PRODUCTS)
            assert len(row) == len(ways) + 2 * (name in module.PRODUCTS)
            expected = ways[0]().float()
            for way in ways[1:]:
                found = way().float()[:, : expected.shape[1]]  # outputs of a convolution are padded
                assert (found - expected).norm() < 0.02 * expected.norm(), name
        assert blocks == kernels.BLOCKS
    finally:
        monkeypatch.delenv("TRITON_INTERPRET")
        importlib.reload(kernels)


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_yardstick(tmp_path: Path, fake_mnist: Path) -> None:
    printed = script(
        "yardstick", "--minutes", "0.03", "--root", str(fake_mnist), "--out", str(tmp_path), "--seeds", "2",
        "model.depth=1 model.width=8",
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "yardstick.jsonl").read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    for line in lines:
        assert 0 < line["test"]["ema"] < 20
        assert line["test_examples"] == 60
        assert line["setting"] == "model.depth=1 model.width=8"
    assert printed.count("bits/dim") == 2
    assert "model.depth=1" in printed


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_introductions(tmp_path: Path) -> None:
    printed = script("introductions", "two_kls", "--steps", "2", "--out", str(tmp_path))
    assert printed.splitlines() == [str(tmp_path / "two_kls.png")]
    assert Image.open(tmp_path / "two_kls.png").width > 2 * Image.open(tmp_path / "two_kls.png").height


def test_kernels_and_mixtures_beside_small_flows() -> None:
    rows = runpy.run_path(str(ROOT / "scripts" / "flows.py"))["classical"]("bimodal", 0)
    assert set(rows) == {("kernel estimate", "bimodal"), ("mixture of Gaussians", "bimodal")}
    assert all(-0.02 < float(cell) < 0.02 for cell in rows.values())


def refused(name: str, *arguments: str) -> str:
    command = [sys.executable, f"scripts/{name}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_yardstick_goes_on_after_a_setting_that_fails(tmp_path: Path, fake_mnist: Path) -> None:
    printed = refused(
        "yardstick", "--root", str(fake_mnist), "--out", str(tmp_path), "model.dept=1", "optimizer.lr=-1"
    )
    assert printed.count("failed: ") == 2
    assert "model.dept" in printed
    assert "optimizer.lr" in printed


def test_an_unknown_picture_of_the_introductions() -> None:
    assert "kls is not one of baselines, two_kls, bridges" in refused("introductions", "kls")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("yardstick", ["--minutes", "0"], "--minutes: must be above zero"),
        ("yardstick", ["name=x"], "the yardstick sets this itself"),
        ("flows", ["nlls"], "nlls is not one of nll"),
        ("benchmark", ["--rounds", "0"], "--rounds: must be a whole number above zero"),
        ("benchmark", ["--skip", "memroy"], "'memroy' is not one of train"),
        ("benchmark", ["--only", "theirs"], "no contender has theirs in its name: floor"),
        ("benchmark", ["--device", "cuda"], "no CUDA device"),
    ],
)
def test_bad_arguments(
    name: str,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    assert refused.value.code != 0
    assert message in f"{refused.value.code} {capsys.readouterr().err}"
