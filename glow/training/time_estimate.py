"""A warning before a run that would take days."""

from __future__ import annotations

import math
import time

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn

from glow.data import ArrayData
from glow.errors import check_positive
from glow.seeds import generator
from glow.training.limits import time_left
from glow.training.module import FlowModule


class TimeEstimate(L.Callback):
    """Time one training step at the start and warn when the whole run would take too long.

    On a CPU it is a step of a few images, on a GPU, which wants large batches, one of the run's size.

    Args:
        hours: warn above this.
    """

    CPU_IMAGES = 4

    def __init__(self, hours: float = 24.0) -> None:
        check_positive("callbacks.estimate.hours", hours)
        self.hours = hours

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Estimate, and warn if need be."""
        assert isinstance(pl_module, FlowModule)
        assert isinstance(trainer.datamodule, ArrayData)  # type: ignore[attr-defined]
        data: ArrayData = trainer.datamodule  # type: ignore[attr-defined]
        device = pl_module.device
        images = data.batch_size // trainer.world_size
        if device.type == "cpu":
            images = min(images, self.CPU_IMAGES)
        x, y = data.initialization_batch(images)
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
        total = min(steps * trainer.accumulate_grad_batches * data.batch_size / rate, time_left(trainer))
        if self.hours * 3600 < total < math.inf:
            parameters = sum(p.numel() for p in pl_module.parameters())
            rank_zero_warn(
                f"this run would take about {total / 86400:,.0f} days: {steps:,.0f} steps at about {rate:,.1f} "
                f"images/s for {parameters / 1e6:.0f} M parameters on this {device.type}. Set model=glow_small for "
                "a smaller model, trainer.max_time=00:12:00:00 (or trainer.max_epochs) for a shorter run, or "
                "use a GPU"
            )
