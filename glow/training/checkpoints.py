"""Keeping the last state of a run."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from glow.errors import NonFiniteError


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``: after every epoch, and when the run is stopped by a signal or an error.

    Lightning's ``save_last`` follows the best checkpoint: it is written only when that one is.  After an
    error between two batches the weights are those of the last whole step, so they are worth keeping;
    not so after a loss that is not finite, when the older file is kept, and after an interrupt that may
    have come in the middle of a step.

    Args:
        dirpath: the folder.
    """

    def __init__(self, dirpath: str) -> None:
        super().__init__(
            dirpath=dirpath,
            filename="last",
            save_on_train_epoch_end=True,  # not only after validations
            save_on_exception=True,
            enable_version_counter=False,
        )

    @property
    def path(self) -> Path:
        """Where the checkpoint is, or will be."""
        return Path(str(self.dirpath)) / "last.ckpt"

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save, unless the weights may not be those of a whole and healthy step."""
        if not isinstance(exception, (KeyboardInterrupt, NonFiniteError)) and trainer.global_step > 0:
            super().on_exception(trainer, pl_module, exception)


def last_checkpoint(trainer: L.Trainer) -> Path | None:
    """The file that repeating the command would resume from, if there is one."""
    paths = [c.path for c in trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
    return next((p for p in paths if p.is_file()), None)
