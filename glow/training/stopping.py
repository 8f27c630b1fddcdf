"""Signals without loss."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning as L


class StopGracefully(L.Callback):
    """Treat the first Ctrl-C (SIGINT) like SIGTERM: finish the step, save, stop. A second one stops at once.

    Lightning's own answer to Ctrl-C is to stop anywhere, possibly between two halves of a step, and to
    SIGTERM during a validation, to take the rest of that validation for the whole when it is resumed.
    Here a validation that has begun is finished. ``received`` is the SIGINT that stopped the run, if one did.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: Any = None
        self._deferred = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over SIGINT."""

        def handle(number: int, frame: FrameType | None) -> None:
            if trainer.is_global_zero:
                print("\nstopping after this step (Ctrl-C again stops at once)", flush=True)
            self.received = signal.Signals(number)
            # The flag that Lightning's loops look at between steps.
            trainer._signal_connector.received_sigterm = True
            signal.signal(number, self._previous)

        self._previous = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, handle)

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Look away until the validation is over."""
        if trainer.received_sigterm and trainer.state.fn == "fit":
            self._deferred = True
            trainer._signal_connector.received_sigterm = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop now."""
        if self._deferred:
            self._deferred = False
            trainer._signal_connector.received_sigterm = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give it back."""
        self._restore()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give it back."""
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
