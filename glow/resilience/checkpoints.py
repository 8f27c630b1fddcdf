"""Keeping the best and the last state of a run."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from glow.checkpoint import read_model
from glow.errors import DiskFullError, TrainingError, UnreadableError, UsageError
from glow.resilience.lightning_internals import (
    count_epoch_once,
    dump_checkpoint,
    find_callback,
    repeat_validation,
)
from glow.resilience.storage import PREVIOUS


class BestCheckpoint(ModelCheckpoint):
    """``best.ckpt``: the state with the lowest ``val/UNIT`` so far, UNIT being the module's ``unit``.

    A run whose folder was moved keeps its best value.

    Args:
        dirpath: the folder.
    """

    def __init__(self, dirpath: str) -> None:
        super().__init__(dirpath=dirpath, filename="best", enable_version_counter=False)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.monitor = (
            f"val/{pl_module.unit}"  # part of the key under which Lightning restores this callback's state
        )
        super().setup(trainer, pl_module, stage)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning forgets the best value if the folder's path has changed; here there is one file, in that folder.
        here = str(Path(str(self.dirpath)) / "best.ckpt")
        moved: dict[str, Any] = {"dirpath": self.dirpath}
        if state_dict["best_model_path"]:
            score = state_dict["best_model_score"]
            moved |= {"best_model_path": here, "kth_best_model_path": here, "best_k_models": {here: score}}
        super().load_state_dict(state_dict | moved)


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``: the state after every epoch, and when a signal or an error stops training.

    Lightning's ``save_last`` is written only when the best checkpoint is. After an error between two batches the weights
    are those of the last whole step, so they are saved; they are not, and the older file is kept, after a non-finite loss,
    after an interrupt that may have come in the middle of a step, on a full disk, and before and after training, when the
    module may hold other weights. The file that is replaced stays as ``previous.ckpt``.

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

    def latest_valid(self) -> Path | None:
        """The checkpoint to continue from, or None; a damaged one is renamed, with a warning.

        Raises:
            UsageError: there are checkpoints, but all are damaged.
            UnreadableError: it cannot be found out whether one is.
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
                # Under its own name the next save would make it previous.ckpt, in place of the good one.
                _quarantine(self.path)
            return path
        if kept:
            raise UsageError(f"{'; '.join(reasons)}: no checkpoint is whole, start over with resume=false")
        return None

    def state_dict(self) -> dict[str, Any]:
        # There is one file, always replaced: nothing of ModelCheckpoint's own state is needed.
        return {"in_validation": self._in_validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._in_validation = state_dict["in_validation"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._training = True
        _check_same_step(trainer)
        count_epoch_once(trainer)
        if self._in_validation:  # after an error in a validation
            repeat_validation(trainer)
            self._in_validation = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._training = False  # from here on the module may hold other weights

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        unhealthy = isinstance(exception, (KeyboardInterrupt, TrainingError))
        if self._training and not unhealthy and trainer.global_step > 0:
            self._in_validation = trainer.validating
            stopped = isinstance(exception, SIGTERMException)  # on all devices at the same step
            try:
                if stopped or trainer.world_size == 1:
                    super().on_exception(trainer, pl_module, exception)
                elif trainer.is_global_zero:  # the other devices do not wait here
                    trainer.strategy.checkpoint_io.save_checkpoint(dump_checkpoint(trainer), str(self.path))
            except DiskFullError as full:
                if stopped:
                    raise
                rank_zero_warn(str(full))  # the first error is the one to raise
        self._training = False


def last_checkpoint(trainer: L.Trainer) -> Path | None:
    """The file that repeating the command would continue from; None if there is none."""
    last = find_callback(trainer, LastCheckpoint)
    return next(iter(last.kept), None) if last else None


def _check_same_step(trainer: L.Trainer) -> None:
    step = trainer.global_step
    same = trainer.strategy.broadcast(step) == step
    if not trainer.strategy.reduce_boolean_decision(same, all=True):
        raise UsageError(
            "the processes continue different checkpoints: is output_dir the same folder on every node?"
        )


@rank_zero_only
def _quarantine(path: Path) -> None:
    if path.is_file():
        path.replace(path.with_name(f"{path.name}.damaged"))
