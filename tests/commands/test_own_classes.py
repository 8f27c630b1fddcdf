"""Classes of a researcher's own, by ``_target_`` from the command line and ``--config-dir``."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from glow.commands.build import make
from glow.commands.evaluate import evaluate
from glow.commands.main import CONF, compose
from glow.commands.sample import sample
from glow.errors import UsageError

Run = Callable[..., dict[str, Any]]
TINY = (
    "debug=fast",
    "name=own",
    "model.depth=1",
    "model.width=4",
    "callbacks.estimate=null",
    "callbacks.pictures=null",
)

PACKAGE = '''
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

called = []


class Mine(L.Callback):
    def on_train_end(self, trainer, pl_module):
        called.append("callback")


class MyAdam(torch.optim.Adam):
    def step(self, closure=None):
        called.append("step")
        return super().step(closure)


class Net(nn.Module):
    """Sees the size of its images, and keys of its node."""

    def __init__(self, in_channels, out_channels, size, hidden=8):
        super().__init__()
        called.append(("net", tuple(size), hidden))
        self.body = nn.Sequential(nn.Conv2d(in_channels, hidden, 3, padding=1), nn.SiLU())
        self.last = nn.Conv2d(hidden, out_channels, 1)

    def forward(self, x):
        return self.last(self.body(x))


class Data(L.LightningDataModule):
    """No part of this project."""

    def __init__(self, shape, batch_size, **ignored):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.randint(17, (64, *shape), generator=generator, dtype=torch.uint8)
        self.loader = DataLoader(TensorDataset(x), batch_size)

    def train_dataloader(self):
        return self.loader

    val_dataloader = test_dataloader = train_dataloader


def broken(*args, **kwargs):
    raise ValueError("a mistake in the user's own code")
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "mypkg.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("mypkg", None)
    import mypkg  # type: ignore[import-not-found]

    yield mypkg
    sys.modules.pop("mypkg", None)


def test_a_callback(run: Run, package: Any) -> None:
    run(*TINY, "+callbacks.mine._target_=mypkg.Mine")
    assert package.called == ["callback"]


def test_an_optimizer(run: Run, package: Any) -> None:
    run(*TINY, "optimizer=adam", "optimizer._target_=mypkg.MyAdam")
    assert package.called == ["step", "step"]


def test_data(run: Run, package: Any) -> None:
    results = run(*TINY, "dataset._target_=mypkg.Data")
    assert results["steps"] == 2
    assert results["test_examples"] == 16


def test_a_schedule_of_torch(run: Run) -> None:
    cycle = "+schedule._target_=torch.optim.lr_scheduler.OneCycleLR"
    assert run(*TINY, "schedule=none", cycle, "+schedule.max_lr=0.01")["steps"] == 2


@pytest.mark.slow
def test_a_coupling_network_trains_draws_and_is_measured(run: Run, package: Any, tmp_path: Path) -> None:
    own = ("++model.network._target_=mypkg.Net", "++model.network.hidden=6")
    results = run(*TINY, *own)
    assert results["test"]["raw"] < 10
    assert package.called[0] == ("net", (4, 4), 6)
    ckpt = f"ckpt={tmp_path}/outputs/own"
    for command, call in (("sample", sample), ("evaluate", evaluate)):
        arguments = [ckpt, f"out={tmp_path}/{command}", *(["n=4"] if command == "sample" else ["limit=8"])]
        with pytest.raises(UsageError, match=r"\+\+model\.network\._target_=mypkg\.Net"):
            call(compose(command, arguments))
        call(compose(command, [*arguments, own[0]]))


def test_errors_of_a_class_of_one_s_own_keep_their_trace(run: Run, package: Any) -> None:
    with pytest.raises(Exception, match="a mistake in the user's own code") as error:
        run(*TINY, "+callbacks.mine._target_=mypkg.broken")
    assert not isinstance(error.value, UsageError)


@pytest.mark.slow
def test_option_files_of_one_s_own(tmp_path: Path) -> None:
    """`train.py --config-dir DIR experiment=mine`, `--config-name own`; Hydra refuses `+experiment=mine`, and we say why."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    mine = "# @package _global_\ndefaults:\n  - override /optimizer: adamw\nname: mine\n"
    (tmp_path / "conf/experiment/mine.yaml").write_text(mine)
    (tmp_path / "conf/own.yaml").write_text("defaults:\n  - train\n  - _self_\nseed: 7\n")
    for arguments in (["experiment=mine"], ["--config-name", "own"], ["+experiment=mine"]):
        command = [
            sys.executable,
            str(CONF.parent / "train.py"),
            "--config-dir",
            str(tmp_path / "conf"),
            *arguments,
        ]
        shown = subprocess.run(
            [*command, "--cfg", "job"], capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        if arguments == ["+experiment=mine"]:
            assert shown.returncode == 2
            assert "write experiment=mine, without +" in shown.stderr
            continue
        assert shown.returncode == 0, shown.stderr
        assert ("seed: 7" if "own" in arguments else "name: mine") in shown.stdout


@pytest.mark.slow
def test_hydra_chooses_the_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(CONF.parent / "train.py"), f"hydra.run.dir={tmp_path}/here", *TINY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here/results.json").is_file()


def test_what_a_schedule_s_node_sets_is_not_replaced() -> None:
    target = "torch.optim.lr_scheduler.OneCycleLR"
    node = OmegaConf.create({"_target_": target, "_partial_": True, "max_lr": 0.1, "total_steps": 7})
    schedule = make("schedule", node)
    named = inspect.signature(schedule).parameters.keys() - schedule.keywords  # as ``scheduled`` asks
    assert "steps_per_epoch" in named
    assert "total_steps" not in named
