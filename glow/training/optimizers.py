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
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimizer: {error}") from error


def build_schedule(
    optimizer: torch.optim.Optimizer, config: Mapping[str, Any], steps_per_epoch: float, total_steps: float
) -> LambdaLR:
    """Linear warm-up per step over ``warmup_epochs``, then constant or a cosine to zero.

    Args:
        optimizer: whose learning rates are multiplied.
        config: ``warmup_epochs`` (may be a fraction) and ``decay``, ``none`` or ``cosine``.
        steps_per_epoch: optimizer steps in an epoch.
        total_steps: optimizer steps in the run, for the cosine; infinite if unknown.

    Raises:
        UsageError: a bad value, or a cosine without an end.
    """
    decay = config.get("decay", "none")
    check_choice("optimizer.decay", decay, ("none", "cosine"))
    check_positive("optimizer.warmup_epochs", config.get("warmup_epochs", 0), zero=True)
    if decay == "cosine" and not math.isfinite(total_steps):
        raise UsageError("optimizer.decay=cosine needs an end: set trainer.max_epochs or trainer.max_steps")
    warmup = round(config.get("warmup_epochs", 0) * steps_per_epoch)
    return LambdaLR(optimizer, factor(warmup, total_steps if decay == "cosine" else math.inf))


def factor(warmup: int, decay_until: float) -> Callable[[int], float]:
    """The factor on the learning rate at a step (counted from 0): at most 1, never 0 before the end."""

    def at(step: int) -> float:
        up = min(1.0, (step + 1) / (warmup + 1))
        if not math.isfinite(decay_until):
            return up
        progress = min(1.0, max(0.0, (step - warmup) / max(1.0, decay_until - warmup)))
        return up * 0.5 * (1 + math.cos(math.pi * progress))

    return at
