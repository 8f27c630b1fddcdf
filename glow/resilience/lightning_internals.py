"""What touches Lightning's private state, one function each, written against Lightning 2.6.6.

A new version of Lightning may change any of them; ``tests/resilience/test_lightning_internals.py`` uses each one.
Private methods are overridden in two more places, because Lightning has no public hook there:
``glow.training.ema.EMA`` counts the calls of ``WeightAveraging._swap_models`` and reads ``_average_model`` and
``_latest_update_step``; ``glow.resilience.csv_logger.AppendingCSVLogger`` replaces ``CSVLogger.experiment`` and reads
``_experiment``.
"""

from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loops.evaluation_loop import RestartStage

C = TypeVar("C", bound=L.Callback)


def find_callback(trainer: L.Trainer, kind: type[C]) -> C | None:
    """The trainer's first callback of a class; None if there is none. (``callbacks`` is public, but untyped.)"""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def logs_this_step(trainer: L.Trainer) -> bool:
    """Whether Lightning writes the figures that are logged in the present training step.

    Asked before a figure is computed or handed to ``log``, which takes time in every step. Lightning decides by a private
    count of batches after which the optimizer stepped, which it raises later.
    """
    every = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0


def batches_begun(trainer: L.Trainer) -> int:
    """The batches of this epoch that training has begun, above zero when a run continues inside an epoch.

    No public attribute has the position in an epoch that a checkpoint restores.
    """
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def accumulates(trainer: L.Trainer) -> bool:
    """Whether the present batch is not the last of its optimizer step (``accumulate_grad_batches``)."""
    return trainer.fit_loop._should_accumulate()


def request_stop(trainer: L.Trainer, stop: bool) -> None:
    """Set the flag that Lightning's loops look at between batches, and end with a ``SIGTERMException``.

    ``trainer.received_sigterm`` can only be read, and ``trainer.should_stop`` ends training as if it were done.
    """
    trainer._signal_connector.received_sigterm = stop


def time_limits(trainer: L.Trainer) -> list[tuple[Timer, float]]:
    """The timers of ``max_time`` and their limits in seconds, which ``Timer`` does not tell."""
    timers = [c for c in trainer.callbacks if isinstance(c, Timer)]  # type: ignore[attr-defined]
    return [(timer, timer._duration) for timer in timers if timer._duration is not None]


def dump_checkpoint(trainer: L.Trainer) -> dict[str, Any]:
    """What ``trainer.save_checkpoint`` would write. That waits for all devices, which one device's error must not."""
    return trainer._checkpoint_connector.dump_checkpoint()


def count_epoch_once(trainer: L.Trainer) -> None:
    """Undo a second count of an epoch.

    A run with ``max_steps`` that is resumed at the end of an epoch finishes that epoch once more, without any batch, and
    Lightning would count it twice.
    """
    if trainer.fit_loop.restarted_on_epoch_end:
        progress: Any = trainer.fit_loop.epoch_progress
        for counter in (progress.current, progress.total):
            counter.processed = counter.completed


def repeat_validation(trainer: L.Trainer) -> None:
    """Do the validation in which a checkpoint was saved as a whole; Lightning would do the rest of it, or none."""
    validation = trainer.fit_loop.epoch_loop.val_loop
    validation.batch_progress.current.reset()
    validation._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
