"""Optimizers by name, and the learning rate over the steps of a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from glow.errors import UsageError, check_choice, check_positive, nearest

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adamax": torch.optim.Adamax,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
SCHEDULE = ("name", "warmup_epochs", "decay")
"""Keys of the configuration that are not the optimizer's own."""


def build_optimizer(parameters: Iterable[nn.Parameter], config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The optimizer of an ``optimizer`` configuration: ``name`` and the arguments of that class.

    Raises:
        UsageError: an unknown name or argument, or a learning rate that is not above zero.
    """
    check_choice("optimizer.name", config.get("name"), OPTIMIZERS)
    cls = OPTIMIZERS[str(config["name"])]
    arguments = {k: v for k, v in config.items() if k not in SCHEDULE}
    known = [n for n in inspect.signature(cls).parameters if n != "params"]
    for name in arguments:
        if name not in known:
            raise UsageError(f"optimizer.{name} is not an option of {config['name']}{nearest(name, known)}")
    check_positive("optimizer.lr", arguments.get("lr"))
    try:
        return cls(parameters, **arguments)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        raise UsageError(f"optimizer: {error}") from error


DECAYS: dict[str, Callable[[float], float]] = {
    "none": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}
"""``optimizer.decay`` -> the factor on the learning rate at a progress from 0, the end of the warm-up, to 1."""


def build_schedule(
    optimizer: torch.optim.Optimizer,
    config: Mapping[str, Any],
    steps_per_epoch: float,
    total_steps: float,
    time_used: Callable[[], float] | None = None,
) -> LambdaLR:
    """Linear warm-up per step over ``warmup_epochs``, then constant or decaying to zero at the end of the run.

    Args:
        optimizer: whose learning rates are multiplied.
        config: ``warmup_epochs`` (may be a fraction) and ``decay``, a key of ``DECAYS``.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps in the run; infinite if unknown.
        time_used: how much of the run's time limit is used up, from 0 to 1; None without one. The end is what comes
            first.

    Raises:
        UsageError: a bad value, or a decay without an end.
    """
    decay = config.get("decay", "none")
    check_choice("optimizer.decay", decay, DECAYS)
    check_positive("optimizer.warmup_epochs", config.get("warmup_epochs", 0), zero=True)
    if decay != "none" and not math.isfinite(total_steps) and time_used is None:
        raise UsageError(
            f"optimizer.decay={decay} needs an end: set trainer.max_epochs, trainer.max_steps or trainer.max_time"
        )
    warmup = round(config.get("warmup_epochs", 0) * steps_per_epoch)
    return LambdaLR(
        optimizer, factor(warmup, DECAYS[decay], total_steps, time_used if decay != "none" else None)
    )


def factor(
    warmup: int,
    decay: Callable[[float], float],
    total_steps: float = math.inf,
    time_used: Callable[[], float] | None = None,
) -> Callable[[int], float]:
    """The factor on the learning rate at a step (counted from 0): at most 1, never 0 before the end."""

    def at(step: int) -> float:
        up = min(1.0, (step + 1) / (warmup + 1))
        progress = (step - warmup) / max(1.0, total_steps - warmup)
        if time_used is not None:
            progress = max(progress, time_used())
        return up * decay(min(1.0, max(0.0, progress)))

    return at
