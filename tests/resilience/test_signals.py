"""One signal stops after the step; its repetition within the window is the same signal, a later one stops at once."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import SIGTERMException

from glow.resilience import LastCheckpoint, StopOnSignal


class Send(L.Callback):
    """Sends signals to this process during the fourth batch, and counts the batches that end."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self.numbers = numbers
        self.ended = 0

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            for number in self.numbers:
                os.kill(os.getpid(), number)

    def on_train_batch_end(self, *args: Any) -> None:
        self.ended += 1


def fit(folder: Path, send: Send) -> tuple[StopOnSignal, L.Trainer]:
    stop = StopOnSignal()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_epochs=1,
        limit_train_batches=8, limit_val_batches=0, callbacks=[stop, send, LastCheckpoint(str(folder))],
    )  # fmt: skip
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        trainer.fit(BoringModel())
    finally:
        assert {number: signal.getsignal(number) for number in before} == before, (
            "the handlers are given back"
        )
    return stop, trainer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_repeated_within_the_window_it_is_the_same_signal(
    tmp_path: Path, number: signal.Signals, times: int
) -> None:
    """As when torchrun forwards a signal that the whole process group has received."""
    send = Send(*[number] * times)
    with pytest.raises(SIGTERMException):
        fit(tmp_path, send)
    assert send.ended == 4, "the step was finished"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


def test_another_signal_within_the_window_is_a_forwarded_one(tmp_path: Path) -> None:
    with pytest.raises(SIGTERMException):
        fit(tmp_path, send := Send(signal.SIGUSR1, signal.SIGTERM))
    assert send.ended == 4


def test_after_the_window_the_second_one_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopOnSignal, "REPEAT_WINDOW", 0.0)
    send = Send(signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit):  # Lightning's answer to a KeyboardInterrupt
        fit(tmp_path, send)
    assert send.ended == 3, "the step was not finished"
    assert not (tmp_path / "last.ckpt").exists(), "an interrupt may come in the middle of a step"
