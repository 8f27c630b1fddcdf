"""Keeping the best and the last state of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.evaluation_loop import RestartStage
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from glow.checkpoint import read_model
from glow.errors import DiskFullError, TrainingError, UnreadableError, UsageError
from glow.resilience.storage import PREVIOUS


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``: the lowest value of ``monitor`` so far, also after the run's folder was moved.

    Args:
        dirpath: the folder.
        monitor: the name of the figure, ``val/bpd`` or ``val/nll``.
    """

    def __init__(self, dirpath: str, monitor: str) -> None:
        super().__init__(dirpath=dirpath, filename="best", monitor=monitor, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning forgets the best value when the folder has another path; here there is one file, in it."""
        here = str(Path(str(self.dirpath)) / "best.ckpt")
        moved: dict[str, Any] = {"dirpath": self.dirpath}
        if state_dict["best_model_path"]:
            score = state_dict["best_model_score"]
            moved |= {"best_model_path": here, "kth_best_model_path": here, "best_k_models": {here: score}}
        super().load_state_dict(state_dict | moved)


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``: after every epoch, and when training is stopped by a signal or an error.

    Lightning's ``save_last`` follows the best checkpoint: it is written only when that one is. After an
    error between two batches the weights are those of the last whole step, so they are worth keeping; not
    so after a loss that is not finite, when the older file is kept, after an interrupt that may have come
    in the middle of a step, on a full disk, or before and after training, when other weights may be in the
    module. The file that it replaces stays as ``previous.ckpt``.

    Args:
        dirpath: the folder.
    """

    def __init__(self, dirpath: str) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            enable_version_counter=False,
            save_on_train_epoch_end=True,  # not only after validations
            save_on_exception=True,
        )
        self._training = False
        self._in_validation = False

    @property
    def path(self) -> Path:
        """Where the checkpoint is, or will be."""
        return Path(str(self.dirpath)) / "last.ckpt"

    @property
    def kept(self) -> list[Path]:
        """The checkpoints to continue from, the newest first: ``last.ckpt`` and the one before."""
        return [p for p in (self.path, self.path.with_name(PREVIOUS["last.ckpt"])) if p.is_file()]

    def newest_whole(self) -> Path | None:
        """The checkpoint to continue from, if there is one; damaged ones are put aside, with a warning.

        Raises:
            UsageError: there are some, but none is whole.
            UnreadableError: it is not known whether one is.
        """
        kept, reasons = self.kept, []
        for path in kept:
            try:
                read_model(path)
            except UnreadableError:
                raise
            except UsageError as error:
                reasons.append(str(error))
                continue
            if reasons:
                rank_zero_warn(f"{reasons[0]}; continuing {path.name}, the one before")
                # Or else it would become the one before, in place of the good one.
                _put_aside(self.path)
            return path
        if kept:
            raise UsageError(f"{'; '.join(reasons)}: no checkpoint is whole, start over with resume=false")
        return None

    def state_dict(self) -> dict[str, Any]:
        """Whether it was saved in a validation. There is one file, always replaced: nothing else to know."""
        return {"in_validation": self._in_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The same."""
        self._in_validation = state_dict["in_validation"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From here on the state is worth keeping."""
        super().on_train_start(trainer, pl_module)
        self._training = True
        # A run with max_steps that is resumed at the end of an epoch finishes that epoch once more, without
        # any batch, and Lightning would count it twice.
        if trainer.fit_loop.restarted_on_epoch_end:
            progress: Any = trainer.fit_loop.epoch_progress
            for counter in (progress.current, progress.total):
                counter.processed = counter.completed
        # After an error in a validation Lightning would do the rest of it, or none; here it is done again.
        if self._in_validation:
            validation = trainer.fit_loop.epoch_loop.val_loop
            validation.batch_progress.current.reset()
            validation._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
            self._in_validation = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """And no longer."""
        self._training = False

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save, unless the weights may not be those of a whole and healthy step of training."""
        unhealthy = isinstance(exception, (KeyboardInterrupt, TrainingError))
        if self._training and not unhealthy and trainer.global_step > 0:
            self._in_validation = trainer.validating
            stopped = isinstance(exception, SIGTERMException)  # on all devices at the same step
            try:
                if stopped or trainer.world_size == 1:
                    super().on_exception(trainer, pl_module, exception)
                elif trainer.is_global_zero:
                    # An error of one device: the others are not waiting for it here.
                    state = trainer._checkpoint_connector.dump_checkpoint()
                    trainer.strategy.checkpoint_io.save_checkpoint(state, str(self.path))
            except DiskFullError as full:
                if stopped:
                    raise
                rank_zero_warn(str(full))  # the error that came first is the one to tell
        self._training = False


def last_checkpoint(trainer: L.Trainer) -> Path | None:
    """The file that repeating the command would resume from, if there is one."""
    kept = [p for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint) for p in c.kept]
    return next(iter(kept), None)


@rank_zero_only
def _put_aside(path: Path) -> None:
    if path.is_file():
        path.replace(path.with_name(f"{path.name}.damaged"))
