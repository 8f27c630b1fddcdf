"""How much of a run's time limit is used up."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer


def _timers(trainer: L.Trainer) -> list[Timer]:
    return [c for c in trainer.callbacks if isinstance(c, Timer) and c._duration is not None]  # type: ignore[attr-defined]


def time_left(trainer: L.Trainer) -> float:
    """Seconds until ``trainer.max_time``; infinite without it."""
    return min((left for t in _timers(trainer) if (left := t.time_remaining()) is not None), default=math.inf)


def time_used(trainer: L.Trainer) -> Callable[[], float] | None:
    """A function for the share of ``trainer.max_time`` that is used up, from 0 to 1; None without a limit.

    Devices must not disagree: where there are several, all take the first one's.
    """
    timers = _timers(trainer)
    if not timers:
        return None

    def used() -> float:
        share = max(t.time_elapsed() / t._duration for t in timers if t._duration)
        if trainer.world_size > 1:
            seen = torch.tensor(share, device=trainer.strategy.root_device)
            share = float(trainer.strategy.broadcast(seen))
        return min(1.0, share)

    return used
