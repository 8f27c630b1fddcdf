"""What a stranger's configuration or checkpoint asks for is refused before it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from glow.commands.main import refuse_hydra
from glow.commands.targets import check_targets
from glow.errors import UsageError

Run = Callable[..., dict[str, Any]]
DIGITS = ("debug=fast", "resume=true", "model.depth=1", "model.width=8", "callbacks.estimate=null")


@pytest.mark.parametrize(
    "override",
    [
        "+callbacks.x._target_=os.system",
        "dataset._target_=subprocess.run",
        "trainer._target_=builtins.exec",
        "logger.csv._target_=pathlib.Path",
        "callbacks.ema._target_=lightning.pytorch.trainer.trainer.os.system",  # out of the package by attributes
        "callbacks.ema._target_=torch.hub.load",
        "callbacks.ema._target_=lightning.Trainer",  # a class of another kind
        "dataset._target_=glow.flows.build",  # a function
        "dataset._target_=glow.data.ArrayData.load",
        "dataset._target_=glow.nowhere.Digits",
        "dataset._target_=[os.system]",
        "callbacks.ema._target_=7",
        "+callbacks.ema.decay_from._target_=os.system",
        "+trainer.profiler._target_=os.system",
        "trainer.profiler={_target_:lightning.pytorch.callbacks.LambdaCallback}",
        "+callbacks.x={_target_:lightning.Callback,deep:[{deeper:{_target_:os.system}}]}",
        "+model.x._target_=os.system",
        "+anything.x._target_=os.system",
        "+_target_=os.system",
        "+callbacks.ema._partial_=true",
        "+callbacks.ema._args_=[0.5]",
        "+dataset._convert_=none",
    ],
)
def test_other_code_is_refused(run: Run, override: str) -> None:
    with pytest.raises(UsageError, match=r"_target_=\S+ is (refused|not there)|\._\w+_ is not accepted"):
        run(*DIGITS, override)


def test_what_is_refused_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"callbacks\.x\._target_=stranger\.Callback is refused"):
        check_targets({"callbacks": {"x": {"_target_": "stranger.Callback"}}})
    assert "stranger" not in sys.modules


def test_lightning_s_own_classes_are_taken(run: Run) -> None:
    summary = "+callbacks.x._target_=lightning.pytorch.callbacks.ModelSummary"
    profiler = "trainer.profiler={_target_:lightning.pytorch.profilers.SimpleProfiler}"
    assert run(*DIGITS, summary, profiler, "callbacks.pictures=null")["steps"] == 2


@pytest.mark.parametrize(
    "setting",
    [
        "callbacks.best.dirpath=/etc/x",
        "callbacks.last.dirpath=elsewhere",
        "callbacks.pictures.dirpath='${run_dir}/../x'",
        "callbacks.pictures.dirpath=null",
        "logger.csv.save_dir=.",
        "logger.tensorboard.save_dir='${output_dir}'",
        "logger.tensorboard.name=../../x",
        "logger.tensorboard.version=/tmp/x",
        "trainer.profiler={_target_:lightning.pytorch.profilers.SimpleProfiler,dirpath:/tmp}",
    ],
)
def test_nothing_is_written_outside_the_run_s_folder(run: Run, setting: str) -> None:
    with pytest.raises(
        UsageError, match=r"^(callbacks|logger|trainer)\.\S+ must lie inside the run's folder, "
    ):
        run(*DIGITS, setting)


def test_a_folder_inside_the_run_s_is_taken(run: Run) -> None:
    results = run(*DIGITS, "callbacks.best.dirpath=${run_dir}/kept/best", "callbacks.pictures=null")
    assert results["checkpoint"] == "kept/best/best.ckpt"


@pytest.mark.parametrize(
    "arguments",
    [
        ["+hydra.callbacks.x._target_=os.system"],
        ["hydra.run.dir=/etc"],
        ["hydra.output_subdir=x"],
        ["+hydra.job.env_set.LD_PRELOAD=x"],
        ["hydra.job_logging.handlers.console.class=logging.FileHandler"],
        ["--config-dir", "FOLDER", "experiment=stranger"],
        ["--config-dir=FOLDER", "-m", "experiment=null,stranger"],
        ["--experimental-rerun", "x.pickle"],
        ["-cn", "sample"],
    ],
    ids=" ".join,
)
def test_hydra_runs_and_writes_nothing_of_its_own(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "experiment").mkdir()
    copy = {"_target_": "shutil.copy", "src": "/etc/hostname", "dst": str(tmp_path / "copied")}
    OmegaConf.save({"hydra": {"callbacks": {"x": copy}}}, tmp_path / "experiment/stranger.yaml")
    file = tmp_path / "experiment/stranger.yaml"
    file.write_text("# @package _global_\n" + file.read_text())
    with pytest.raises(UsageError, match="is not accepted"):
        refuse_hydra("train", [a.replace("FOLDER", str(tmp_path)) for a in arguments])


@pytest.mark.parametrize(
    "arguments", [[], ["-m", "model.layers=2,4", "dataset=two_moons"], ["--help"], ["seed=1"]]
)
def test_other_command_lines_are_hydras(arguments: list[str]) -> None:
    refuse_hydra("train", arguments)
