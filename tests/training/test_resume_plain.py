"""Stopping and continuing without Hydra: by our callbacks, and by Lightning's own means alone."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from glow.resilience import DurableCheckpointIO, LastCheckpoint, NonFiniteGuard, StopOnSignal
from glow.training import EMA, warmup

from .small import fit, of_digits


class Term(L.Callback):
    """SIGTERM during the n-th batch."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def module() -> Any:
    made = of_digits(shift=0.1, changed={"depth": 1, "width": 8, "permutation": "shuffle"})
    made.schedule = partial(warmup, decay="none")
    return made


def states(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    return {
        f"{kind} {name}": value
        for kind in ("state_dict", "current_model_state")
        for name, value in content[kind].items()
        if isinstance(value, torch.Tensor) and name.startswith("flow.")
    }


def same(first: Path, second: Path) -> None:
    one, two = states(first), states(second)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.mark.parametrize(
    ("stop_at", "accumulate"),
    [
        (5, 1),
        pytest.param(11, 1, marks=pytest.mark.slow),
        pytest.param(14, 1, marks=pytest.mark.slow),
        (16, 3),
    ],
)
def test_stopped_by_a_signal(tmp_path: Path, stop_at: int, accumulate: int) -> None:
    """Every weight agrees to the last bit, raw and averaged, and so do the means."""

    def run(name: str, *more: L.Callback, **options: Any) -> L.Trainer:
        last = LastCheckpoint(str(tmp_path / name))
        return fit(
            module(), EMA(), StopOnSignal(), NonFiniteGuard(), *more, last, max_epochs=3, enable_checkpointing=True,
            plugins=[DurableCheckpointIO()], ckpt_path=last.latest_valid(), accumulate_grad_batches=accumulate,
        )  # fmt: skip

    whole = run("whole")
    with pytest.raises(SIGTERMException):
        run("parts", Term(stop_at))
    assert 0 < torch.load(tmp_path / "parts/last.ckpt", weights_only=True)["global_step"] < whole.global_step
    parts = run("parts")
    assert (parts.global_step, parts.current_epoch) == (whole.global_step, whole.current_epoch)
    for name in ("train/bpd", "val/bpd"):
        assert parts.callback_metrics[name].item() == pytest.approx(
            whole.callback_metrics[name].item(), rel=1e-6
        )
    same(tmp_path / "whole/last.ckpt", tmp_path / "parts/last.ckpt")


@pytest.mark.parametrize(
    "every",
    [{"every_n_train_steps": 4}, pytest.param({"save_on_train_epoch_end": True}, marks=pytest.mark.slow)],
    ids=str,
)
def test_by_lightnings_own_means(tmp_path: Path, every: dict[str, Any]) -> None:
    """Without any of our callbacks for survival; the checkpoint lies inside an epoch, or at its end."""

    def run(name: str, epochs: int, ckpt_path: Path | None = None) -> L.Trainer:
        keep = ModelCheckpoint(str(tmp_path / name), filename="last", enable_version_counter=False, **every)
        return fit(
            module(), EMA(), keep, max_epochs=epochs, enable_checkpointing=True, ckpt_path=ckpt_path
        )  # fmt: skip

    whole = run("whole", 4)
    run("parts", 2)  # 22 steps: the last checkpoint is that of step 20, or 22
    parts = run("parts", 4, tmp_path / "parts/last.ckpt")
    assert parts.global_step == whole.global_step == 44
    for name in ("train/bpd", "val/bpd"):
        assert parts.callback_metrics[name].item() == pytest.approx(
            whole.callback_metrics[name].item(), rel=1e-6
        )
    same(tmp_path / "whole/last.ckpt", tmp_path / "parts/last.ckpt")
