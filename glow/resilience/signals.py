"""Stopping on a signal without losing a step."""

import signal
import time
from types import FrameType
from typing import Any

import lightning as L

from glow.resilience.lightning_internals import accumulates, request_stop

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""A scheduler's when it takes the machine away, a terminal's on Ctrl-C, a scheduler's before the time is up."""


class StopOnSignal(L.Callback):
    """On one of ``SIGNALS`` finish the optimizer step, save, stop; on a second one stop at once.

    All devices agree after every batch, so that they stop at the same one. Lightning's own handlers, which these replace
    during training, stop at Ctrl-C anywhere, at SIGTERM between the batches of one optimizer step or in the middle of a
    validation (the rest of which a resumed run would take for the whole), and broadcast from within the handler.

    ``received`` is the first signal that this process got, or None.
    """

    REPEAT_WINDOW = 2.0
    """Ignore a second signal within this time (s): torchrun and Slurm forward signals that the process has already received."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._stopping = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.received is not None:
                if time.monotonic() - self._since < self.REPEAT_WINDOW:
                    return
                signal.signal(
                    number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                )
                signal.raise_signal(number)
            self.received, self._since = signal.Signals(number), time.monotonic()
            if trainer.is_global_zero:
                print(f"\n{self.received.name}: stopping after this step (again to stop at once)", flush=True)

        if trainer.received_sigterm:  # by Lightning's handler, before training started
            self.received, self._since = signal.SIGTERM, time.monotonic()
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, handle)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        self._stopping = stop and not accumulates(trainer)
        request_stop(trainer, self._stopping)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            request_stop(trainer, False)  # a validation that began is finished

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            request_stop(trainer, self._stopping)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
