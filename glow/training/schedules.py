"""The learning rate over the steps of a run."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from glow.errors import UsageError, check_choice, check_positive
from glow.resilience.lightning_internals import time_limits

DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}
"""Name of a decay -> the factor on the learning rate at a progress from 0, the end of the warm-up, to 1."""


def warmup(
    optimizer: torch.optim.Optimizer,
    *,
    warmup_epochs: float = 1.0,
    decay: str = "none",
    steps_per_epoch: float,
    total_steps: float = math.inf,
    time_used: Callable[[], float] | None = None,
) -> LambdaLR:
    """Linear warm-up per step, then constant or decaying to zero at the end of the run.

    Args:
        optimizer: whose learning rates are multiplied by a factor of at most 1.
        warmup_epochs: length of the warm-up; may be a fraction.
        decay: ``none``, ``cosine`` or ``linear``.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps in the run; infinite if unknown.
        time_used: the share of the run's time limit that is used up, from 0 to 1; None without a limit. The end of the run
            is whatever comes first.

    Raises:
        UsageError: a bad value, or a decay in a run without an end.
    """
    check_choice("schedule.decay", decay, DECAYS)
    check_positive("schedule.warmup_epochs", warmup_epochs, zero=True)
    if decay != "none" and not math.isfinite(total_steps) and time_used is None:
        raise UsageError(
            f"schedule.decay={decay} needs an end: set fit.max_epochs, fit.max_steps or fit.max_time"
        )
    clock = time_used if decay != "none" else None
    return LambdaLR(
        optimizer, factor(round(warmup_epochs * steps_per_epoch), DECAYS[decay], total_steps, clock)
    )


def factor(
    warmup_steps: int,
    decay: Callable[[float], float],
    total_steps: float = math.inf,
    time_used: Callable[[], float] | None = None,
) -> Callable[[int], float]:
    """The factor on the learning rate at a step (counted from 0): at most 1, never 0 before the end."""

    def at(step: int) -> float:
        up = min(1.0, (step + 1) / (warmup_steps + 1))
        progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
        if time_used is not None:
            progress = max(progress, time_used())
        return up * decay(min(1.0, max(0.0, progress)))

    return at


def time_used(trainer: L.Trainer) -> Callable[[], float] | None:
    """A function for the share of ``trainer.max_time`` that is used up, from 0 to 1; None without a limit.

    Devices must not disagree: if there are several, all take the first one's.
    """
    limits = time_limits(trainer)
    if not limits:
        return None

    def used() -> float:
        share = max(timer.time_elapsed() / limit for timer, limit in limits if limit)
        if trainer.world_size > 1:
            first = torch.tensor(share, device=trainer.strategy.root_device)
            share = float(trainer.strategy.broadcast(first))
        return min(1.0, share)

    return used


def scheduled(
    trainer: L.Trainer, optimizer: torch.optim.Optimizer, schedule: Callable[..., Any], monitor: str
) -> OptimizerLRSchedulerConfig:
    """An optimizer and its schedule, for ``configure_optimizers``.

    Args:
        trainer: of the run.
        optimizer: whose learning rate changes.
        schedule: makes the schedule, ours or torch's, of the optimizer and those of ``steps_per_epoch`` (optimizer steps,
            a float), ``total_steps`` (an int, or infinite) and ``time_used`` (see there) that its signature names and a
            ``functools.partial`` has not set. It advances after every step; ``ReduceLROnPlateau`` after every validation.
        monitor: the figure that ``ReduceLROnPlateau`` looks at.
    """
    total = trainer.estimated_stepping_batches
    trainer.fit_loop.setup_data()  # which the estimate leaves out when only max_steps is set
    known = {
        "steps_per_epoch": trainer.num_training_batches / trainer.accumulate_grad_batches,
        "total_steps": total,
        "time_used": time_used(trainer),
    }
    named = inspect.signature(schedule).parameters.keys() - getattr(schedule, "keywords", {})
    made = schedule(optimizer, **{k: v for k, v in known.items() if k in named})
    plateau = isinstance(made, ReduceLROnPlateau)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {
            "scheduler": made,
            "interval": "epoch" if plateau else "step",
            "frequency": (trainer.check_val_every_n_epoch or 1) if plateau else 1,
            "monitor": monitor,
        },
    }
