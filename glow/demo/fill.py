"""The view Fill in: completions of a picture from which the visitor takes pixels."""

import time
from typing import Any

import torch
from torch import Tensor

from glow.commands.complete import STEPS, fill_in
from glow.commands.session import Session
from glow.demo.ask import Ask, as_pngs
from glow.demo.images import pictures
from glow.demo.jobs import Event
from glow.errors import UsageError
from glow.evaluation.masks import check_mask
from glow.flows.pixels import PixelByPixel

EVERY = 0.1
"""Seconds between two events."""


def fill(ask: Ask) -> Event:
    """Completions, while they are drawn: ``images``, and the ``share`` of the work that is done.

    ``mask`` is the lengths of runs of pixels, row by row, by turns seen and missing, the first one seen. The first event has
    the mask that is used: a model that goes pixel by pixel draws all after the first missing one.
    """
    label = ask.settings.get("label")
    session = ask.session(
        mode="complete",
        seed=ask.integer("seed", 0, 2**31, 0),
        temperature=ask.number("temperature", 0.1, 3, 1),
        label=label if label in (None, "none") else ask.integer("label", 0, 10**6),
        steps=ask.integer("steps", 2, 5000, STEPS),
        completions=ask.integer("n", 1, 9, 4),
    )
    [image], y = pictures(ask, session, ask.refs("images", 1))
    missing, exact = _mask(ask, session), isinstance(session.density, PixelByPixel)
    if exact:
        missing.view(-1)[int(missing.view(-1).int().argmax()) :] = True
    check_mask(missing, "the picture")
    total = missing.shape[0] if exact else session.cfg.steps
    ask.send({"mask": _runs(missing), "exact": exact})
    sent = time.monotonic()

    def progress(done: int, images: Tensor) -> None:
        nonlocal sent
        if time.monotonic() - sent > EVERY:
            sent = time.monotonic()
            ask.send({"images": as_pngs(images, session.levels), "share": done / total})

    filled, _ = fill_in(
        session, image, missing, None if y is None else y[0], progress=progress, check=ask.check
    )
    return {"images": as_pngs(filled, session.levels), "share": 1}


def _mask(ask: Ask, session: Session) -> Tensor:
    """The missing pixels, bool (H, W)."""
    _, height, width = session.density.event_shape
    runs: Any = ask.settings.get("mask")
    whole = isinstance(runs, list) and all(type(n) is int and 0 <= n <= height * width for n in runs)
    if not whole or sum(runs) != height * width:
        raise UsageError(f"mask must be lengths of runs of {height} x {width} pixels")
    turns = torch.arange(len(runs)) % 2 == 1
    return turns.repeat_interleave(torch.tensor(runs)).view(height, width)


def _runs(missing: Tensor) -> list[int]:
    values, counts = missing.view(-1).unique_consecutive(return_counts=True)
    return [0] * bool(values[0]) + counts.tolist()


HANDLERS = {"fill": fill}
