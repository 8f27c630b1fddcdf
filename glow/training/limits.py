"""How much of a run's time limit is used up."""

from __future__ import annotations

import math
from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Timer


def _timers(trainer: L.Trainer) -> list[Timer]:
    return [c for c in trainer.callbacks if isinstance(c, Timer) and c._duration is not None]  # type: ignore[attr-defined]


def time_left(trainer: L.Trainer) -> float:
    """Seconds until ``trainer.max_time``; infinite without it."""
    return min((left for t in _timers(trainer) if (left := t.time_remaining()) is not None), default=math.inf)


def time_used(trainer: L.Trainer, every: int = 100) -> Callable[[], float] | None:
    """A function for the share of ``trainer.max_time`` that is used up, from 0 to 1; None without a limit.

    Devices must not disagree, so that where there are several they take the first one's, every so many calls.
    """
    timers = _timers(trainer)
    if not timers:
        return None
    calls, share = 0, 0.0

    def used() -> float:
        nonlocal calls, share
        several = trainer.world_size > 1
        if not several or calls % every == 0:
            elapsed = max(t.time_elapsed() / t._duration for t in timers if t._duration)
            share = trainer.strategy.broadcast(elapsed) if several else elapsed
        calls += 1
        return min(1.0, share)

    return used
