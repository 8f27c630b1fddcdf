"""What is private in Lightning is still there, and does what it is used for."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from glow.resilience import LastCheckpoint, StopOnSignal
from glow.resilience import lightning_internals as internals


class Probe(L.Callback):
    """Asks everything in every batch."""

    def __init__(self) -> None:
        self.logs: list[bool] = []
        self.accumulates: list[bool] = []
        self.begun: list[int] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.begun.append(internals.batches_begun(trainer))
        self.logs.append(internals.logs_this_step(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.accumulates.append(internals.accumulates(trainer))


def trainer(*callbacks: L.Callback, **options: Any) -> L.Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    short = {"max_epochs": 1, "limit_train_batches": 6, "limit_val_batches": 2, "enable_checkpointing": False}
    return L.Trainer(**{**quiet, **short, **options}, callbacks=list(callbacks))


def test_positions() -> None:
    probe = Probe()
    trainer(probe, accumulate_grad_batches=2, log_every_n_steps=2).fit(BoringModel())
    assert probe.accumulates == [True, False] * 3
    assert probe.begun == [1, 2, 3, 4, 5, 6], "the present batch included"
    assert probe.logs == [False, False, True, True, False, False], "every second optimizer step"


def test_none_is_logged_every_zero_steps() -> None:
    probe = Probe()
    trainer(probe, log_every_n_steps=0).fit(BoringModel())
    assert probe.logs == [False] * 6


def test_a_stop_is_obeyed() -> None:
    class Stop(L.Callback):
        def on_train_batch_end(
            self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            internals.request_stop(trainer, batch_idx == 2)

    with pytest.raises(SIGTERMException):
        trainer(probe := Probe(), Stop()).fit(BoringModel())
    assert len(probe.accumulates) == 3


def test_time_limits() -> None:
    assert internals.time_limits(trainer()) == []
    [(timer, limit)] = internals.time_limits(trainer(max_time="00:00:01:00"))
    assert limit == 60
    assert timer.time_remaining() == 60


def test_find_callback() -> None:
    stop = StopOnSignal()
    assert internals.find_callback(trainer(stop), StopOnSignal) is stop
    assert internals.find_callback(trainer(), StopOnSignal) is None


def test_checkpoints_and_counts(tmp_path: Path) -> None:
    """``count_epoch_once`` and ``repeat_validation`` change what they are for; test_resume.py has the consequences."""
    whole = trainer(LastCheckpoint(str(tmp_path)), enable_checkpointing=True)
    whole.fit(BoringModel())
    assert internals.dump_checkpoint(whole)["global_step"] == 6

    class Resume(L.Callback):
        counted: tuple[int, int]
        restart: Any

        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            internals.count_epoch_once(trainer)
            current: Any = trainer.fit_loop.epoch_progress.current
            self.counted = current.processed, current.completed
            internals.repeat_validation(trainer)
            self.restart = trainer.fit_loop.epoch_loop.val_loop._restart_stage

    more = trainer(resume := Resume(), max_epochs=-1, max_steps=9)
    more.fit(BoringModel(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert resume.counted[0] == resume.counted[1]
    assert resume.restart == "restarted_mid_evaluation"


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (WeightAveraging, ["_swap_models", "_copy_average_to_current"]),
        (CSVLogger, ["experiment"]),
    ],
)
def test_what_is_overridden_is_there(cls: type, names: list[str]) -> None:
    assert all(hasattr(cls, name) for name in names)
    if cls is WeightAveraging:
        assert {"_average_model", "_latest_update_step"} <= vars(WeightAveraging()).keys()
    else:
        assert "_experiment" in vars(CSVLogger("."))
