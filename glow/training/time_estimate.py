"""How long a run will take, and a warning before one that would take days."""

import math
import time

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn

from glow.errors import check_positive
from glow.resilience.lightning_internals import time_limits
from glow.seeds import generator
from glow.training.initialize import initialization_batch
from glow.training.module import DensityModule


def time_left(trainer: L.Trainer) -> float:
    """Seconds until ``trainer.max_time``; infinite without it."""
    left = (timer.time_remaining() for timer, _ in time_limits(trainer))
    return min((seconds for seconds in left if seconds is not None), default=math.inf)


class TimeEstimate(L.Callback):
    """Time one training step at the start and warn when the whole run would take too long.

    On a CPU it is a step of a few images, on a GPU, which is efficient for large batches only, one of the run's size. The
    data module must tell its ``batch_size``, that of all devices; otherwise nothing is estimated.

    Args:
        hours: warn above this.
    """

    CPU_IMAGES = 4

    def __init__(self, hours: float = 24.0) -> None:
        check_positive("callbacks.estimate.hours", hours)
        self.hours = hours

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DensityModule)
        device = pl_module.device
        size = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
        if size is None:
            return
        images = max(1, size // trainer.world_size)
        if device.type == "cpu":
            images = min(images, self.CPU_IMAGES)
        x, y = initialization_batch(trainer, images, pl_module.seed)
        batch = (x.to(device), *([] if y is None else [y.to(device)]))
        batch = trainer.precision_plugin.convert_input(batch)

        def step() -> float:
            start = time.perf_counter()
            noise = pl_module.noise(len(x), generator(device, "estimate"))
            with trainer.precision_plugin.forward_context():
                pl_module.loss(batch, noise).mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - start

        pl_module.flow.eval()  # these few images must not decide for which size a flow is compiled
        seconds = min(step(), step())  # the first one pays for start-up
        pl_module.flow.train()
        pl_module.zero_grad(set_to_none=True)
        steps = trainer.estimated_stepping_batches - trainer.global_step
        rate = len(x) * trainer.world_size / seconds
        total = min(steps * trainer.accumulate_grad_batches * size / rate, time_left(trainer))
        if self.hours * 3600 < total < math.inf:
            parameters = sum(p.numel() for p in pl_module.parameters())
            rank_zero_warn(
                f"this run would take about {total / 86400:,.0f} days: {steps:,.0f} steps at about {rate:,.1f} "
                f"images/s for {parameters / 1e6:.0f} M parameters on this {device.type}. Set model=glow_small for "
                "a smaller model, fit.max_time=00:12:00:00 (or fit.max_epochs) for a shorter run, or use a GPU"
            )
