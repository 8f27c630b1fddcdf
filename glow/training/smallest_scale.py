"""How close the couplings come to losing the inverse."""

from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from torch import Tensor

from glow.bijections.scales import record_scales
from glow.training.module import DensityModule


class SmallestScale(L.Callback):
    """Log ``val/smallest_scale``, the smallest scale that an affine coupling, or slope that a mixture, multiplied a validation example by.

    The inverse divides by it: near zero, rounding errors of samples become visible.
    """

    def __init__(self) -> None:
        self._smallest: Tensor | None = None
        self._recording = ExitStack()
        self._scales: Any = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._smallest = None

    # Only around batches: what other callbacks compute at the end of a validation does not count.
    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, DensityModule)
        self._recording = ExitStack()
        self._scales = self._recording.enter_context(record_scales(pl_module.flow))

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        self._recording.close()
        smallest = self._scales.smallest
        if smallest is not None:
            known = self._smallest
            self._smallest = smallest if known is None else torch.minimum(smallest, known)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._smallest is not None:
            pl_module.log("val/smallest_scale", self._smallest, sync_dist=True, reduce_fx="min")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._recording.close()
