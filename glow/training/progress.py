"""How far a run is, how fast it goes and when it will end."""

import math
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from glow.errors import check_positive
from glow.evaluation.bits import UNITS
from glow.training.module import DensityModule
from glow.training.time_estimate import time_left


class Throughput(L.Callback):
    """Log ``train/images_per_s``, examples per second of all devices, from batch end to batch end.

    The time of validations, and of checkpoints and pictures between epochs, does not count. ``seconds`` and ``mean`` are
    totals over the whole run, continued runs included.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self._recent = 0
        self._since: float | None = None

    @property
    def mean(self) -> float:
        """Examples per second over the whole run."""
        return self.images / max(self.seconds, 1e-9)

    def on_train_batch_start(self, *args: Any) -> None:
        if self._since is None:
            self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        assert self._since is not None
        self._recent += len(batch[0]) * trainer.world_size
        elapsed = now - self._since
        if elapsed >= 1 or trainer.is_last_batch:
            pl_module.log(
                "train/images_per_s", self._recent / max(elapsed, 1e-9), prog_bar=True, batch_size=1
            )
            self.seconds += elapsed
            self.images += self._recent
            self._recent, self._since = 0, now

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._recent, self._since = 0, None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._recent, self._since = 0, None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "images": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.images = state_dict["seconds"], state_dict["images"]


class Eta:
    """Seconds to the end of a run, from its own speed since ``start``."""

    def __init__(self) -> None:
        self._began = 0.0
        self._step = 0

    def start(self, trainer: L.Trainer) -> None:
        """Measure from here on."""
        self._began, self._step = time.monotonic(), trainer.global_step

    def seconds(self, trainer: L.Trainer) -> float:
        """To the last step or the time limit, whichever is first; infinite if neither is set."""
        done, total = trainer.global_step - self._step, trainer.estimated_stepping_batches
        left = time_left(trainer)
        if done and math.isfinite(total):
            left = min(left, (time.monotonic() - self._began) / done * (total - trainer.global_step))
        return max(0.0, left)


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``, or ``?`` when unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"


class Bar(TQDMProgressBar):
    """Lightning's bar per epoch, with the time to the end of the whole run."""

    def __init__(self) -> None:
        super().__init__()
        self._eta = Eta()

    def on_train_start(self, *args: Any) -> None:
        super().on_train_start(*args)
        self._eta.start(args[0])

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if "train/images_per_s" in metrics:
            metrics["images/s"] = round(float(str(metrics.pop("train/images_per_s"))))
        metrics["ETA"] = clock(self._eta.seconds(trainer))
        return metrics


class LogLines(ProgressBar):
    """Lines of text for logs: step, bits/dim, images/s and ETA, every few seconds and after validations.

    Args:
        every_seconds: time between two lines of training.
    """

    def __init__(self, every_seconds: float = 10.0) -> None:
        super().__init__()
        check_positive("callbacks.progress.every_seconds", every_seconds, zero=True)
        self.every_seconds = every_seconds
        self._enabled = True  # Lightning disables it on all devices but the first
        self._last = 0.0
        self._eta = Eta()

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._eta.start(trainer)
        self._last = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now - self._last >= self.every_seconds:
            self._last = now
            self._line(trainer, pl_module, "train")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._line(trainer, pl_module, "val")

    def _line(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not self._enabled:
            return
        assert isinstance(pl_module, DensityModule)
        metrics, total = trainer.callback_metrics, trainer.estimated_stepping_batches
        value = metrics.get(f"train/{pl_module.unit}_step" if stage == "train" else f"val/{pl_module.unit}")
        rate = metrics.get("train/images_per_s")
        parts = [
            f"step {trainer.global_step}" + (f"/{total:.0f}" if math.isfinite(total) else ""),
            f"epoch {trainer.current_epoch + 1}",
            f"{stage} {float(value):.3f} {UNITS[pl_module.unit]}" if value is not None else stage,
            f"{float(rate):,.0f} {pl_module.flow.kind}/s" if rate is not None else "",
            f"ETA {clock(self._eta.seconds(trainer))}",
        ]
        print(", ".join(p for p in parts if p), flush=True)


def progress(every_seconds: float = 10.0) -> ProgressBar:
    """A bar when standard output is a terminal, else plain lines."""
    return Bar() if sys.stdout.isatty() else LogLines(every_seconds)
