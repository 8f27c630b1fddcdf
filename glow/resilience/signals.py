"""Signals without loss."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Any

import lightning as L

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Of a scheduler that takes the machine away, of a terminal, and of a scheduler before the time is up."""


class StopOnSignal(L.Callback):
    """On one of ``SIGNALS`` finish the optimizer step, save, stop; on a second one stop at once.

    All devices agree after every batch, so that they stop at the same one. Lightning's own handlers,
    which these replace while training lasts, stop at Ctrl-C anywhere, at SIGTERM between the batches that
    share an optimizer step or in the middle of a validation (the rest of which a resumed run would take
    for the whole), and broadcast from within the handler.

    ``received`` is the signal that this process got, if it got one.
    """

    ECHO = 2.0
    """Seconds in which another signal is the same one: torchrun and Slurm pass theirs on to who has it already."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._since = 0.0
        self._stopping = False
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over the signals."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.received is not None:
                if time.monotonic() - self._since < self.ECHO:
                    return
                signal.signal(
                    number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                )
                signal.raise_signal(number)
            self.received, self._since = signal.Signals(number), time.monotonic()
            if trainer.is_global_zero:
                print(f"\n{self.received.name}: stopping after this step (again to stop at once)", flush=True)

        if trainer.received_sigterm:  # by Lightning's handler, while the training was made ready
            self.received, self._since = signal.SIGTERM, time.monotonic()
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, handle)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Agree, and stop if this was the last batch of an optimizer step."""
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        self._stopping = stop and not trainer.fit_loop._should_accumulate()
        self._tell(trainer, self._stopping)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A validation that begins is finished."""
        if trainer.state.fn == "fit":
            self._tell(trainer, False)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Now it may stop."""
        if trainer.state.fn == "fit":
            self._tell(trainer, self._stopping)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give the signals back."""
        self._restore()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the signals back."""
        self._restore()

    @staticmethod
    def _tell(trainer: L.Trainer, stop: bool) -> None:
        # The flag that Lightning's loops look at between batches; they end with a SIGTERMException.
        trainer._signal_connector.received_sigterm = stop

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
