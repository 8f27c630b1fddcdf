"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor

from glow.errors import UsageError
from glow.resilience.lightning_internals import find_callback
from glow.training.initialize import Initialize


class EMA(WeightAveraging):
    r"""Average the weights with a decay that warms up, and validate and save the averaged ones.

    .. math:: \theta_{EMA} \leftarrow d_n \theta_{EMA} + (1 - d_n) \theta, \qquad
        d_n = \min(d, (1 + n) / (10 + n))

    after the n-th update, so that a short run is not judged by weights that lag behind (TensorFlow's
    ``ExponentialMovingAverage`` with ``num_updates``). Buffers are copied, never averaged: a permutation
    has no mean. Checkpoints hold the averaged weights as ``state_dict`` and the raw ones as
    ``current_model_state``.

    Args:
        decay: d, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"callbacks.ema.decay must be in [0, 1), got {decay}")
        super().__init__(use_buffers=False, multi_avg_fn=self._average)
        self.decay = decay
        self._swapped = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the module.

        Raises:
            UsageError: the flow is not initialized, so its copy would never be.
        """
        if stage == "fit":
            initialize = find_callback(trainer, Initialize)
            if initialize is not None:  # before the copy, in whatever order the callbacks are listed
                initialize.setup(trainer, pl_module, stage)
            if not getattr(pl_module.flow, "initialized", True) and trainer.ckpt_path is None:
                raise UsageError(
                    "the flow must be initialized before its weights are averaged: add the Initialize callback, or call "
                    "flow.initialize(batch)"
                )
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            assert self._average_model is not None
            if trainer.precision == "64-true":  # which the flow itself becomes later
                self._average_model.double()
            # It is looked at in every step, which on a GPU would wait for the device.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @contextmanager
    def averaged(self, module: L.LightningModule) -> Iterator[None]:
        """A context in which the module has the averaged weights, also where a validation has put them in place already."""
        swap = self._average_model is not None and not self._swapped
        if swap:
            self._swap_models(module)
        try:
            yield
        finally:
            if swap:
                self._swap_models(module)

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, n: Tensor | int) -> None:
        decay = min(self.decay, (1 + self._latest_update_step) / (10 + self._latest_update_step))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        self._swapped = not self._swapped
        super()._swap_models(pl_module)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if (
            self._swapped
        ):  # an interrupted validation: a checkpoint would take one kind of weights for the other
            self._swap_models(pl_module)
