"""``python sample.py mode=complete``: what is missing of images, drawn given the rest."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from glow.commands.inputs import images
from glow.commands.samples import one_temperature
from glow.commands.session import Session
from glow.flows.pixels import PixelByPixel

if TYPE_CHECKING:
    from glow.evaluation.completion import Completion

STEPS = 300
"""Of a completion: a minute for four of a small image on a CPU."""


def draw_completions(session: Session) -> dict[str, Any]:
    """Each image, the image with its hole, and several ways to fill it."""
    from glow.evaluation.completion import trace_picture  # slow to import
    from glow.evaluation.masks import parse_mask

    session.without_graphs("mode=complete")
    cfg, density = session.cfg, session.density
    temperature = one_temperature(session, 1.0)
    x, y = images(session, [0])
    shape = density.image_shape if isinstance(density, PixelByPixel) else density.event_shape
    missing = parse_mask(str(cfg.mask), shape, session.generator("mask"))
    heads = [density.kind[:-1], "seen", *(f"filled {i + 1}" for i in range(cfg.completions))]
    rows, metrics = [], []
    for i, image in enumerate(x):
        rows += [image[None], image.masked_fill(missing, session.levels // 2)[None]]
        filled, completion = fill_in(session, image, missing, None if y is None else y[i], key=i)
        rows.append(filled)
        if completion is None:
            what = "samples" if density.kind == "signals" else "pixels"
            print(f"{heads[0]} {i}: {int(missing.sum())} of {missing.numel()} {what} missing, drawn exactly")
            continue
        session.save(trace_picture(completion), f"complete_trace_{i}" if len(x) > 1 else "complete_trace")
        metrics.append(completion.metrics())
        print(
            f"image {i}: {int(missing.sum())} of {missing.numel()} pixels missing; seen ones were off by "
            f"{completion.misfit.mean():.1f} grey levels before they were set; "
            f"{', '.join(f'{b:.2f}' for b in completion.trace[-1])} bits/dim"
        )
    title = f"temperature {temperature:g}"
    if density.kind == "signals":
        session.save_signals(torch.cat(rows), "complete", title=title, rows=heads * len(x))
    else:
        session.draw_grid(
            torch.cat(rows), "complete", len(heads), title=title, heads=heads,
            labels=None if y is None else y.repeat_interleave(len(heads)),
        )  # fmt: skip
    return {"mask": str(cfg.mask), "missing_pixels": int(missing.sum()), "completions": metrics}


def fill_in(
    session: Session,
    image: Tensor,
    missing: Tensor,
    y: Tensor | None,
    *,
    key: int = 0,
    progress: Callable[[int, Tensor], None] = lambda *_: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Tensor, "Completion | None"]:
    """Ways to fill what is missing of an image, and how the chains went that drew them; None where they are exact.

    Args:
        session: with its ``completions``, ``steps``, ``temperature`` and ``seed``.
        image: grey levels (C, H, W), or (C, T).
        missing: bool (H, W), or (1, T).
        y: its label, of a class-conditional flow.
        key: which of the images it is: each has random numbers of its own.
        progress: called with the steps done, or the rows where completions are exact, and the images so far.
        check: see ``glow.evaluation.completion.complete``.

    Returns:
        uint8 (completions, *event_shape) on the CPU, and the trace.

    Raises:
        UsageError: the model cannot complete images, or not with this mask.
    """
    from glow.evaluation.completion import complete  # slow to import

    n, temperature = session.cfg.completions, one_temperature(session, 1.0)
    source, steps = session.generator("complete", key), session.cfg.steps or STEPS
    if isinstance(session.density, PixelByPixel):
        filled = session.density.complete(
            image, missing, n, temperature=temperature, generator=source, progress=progress
        )
        return filled.cpu(), None
    with tqdm(total=steps, desc=f"image {key}", delay=2, disable=not sys.stderr.isatty()) as bar:

        def report(done: int, so_far: Tensor) -> None:
            bar.update(done - bar.n)
            progress(done, so_far)

        found = complete(
            session.normal_flow, image, missing, n=n, steps=steps, temperature=temperature, y=y,
            generator=source, progress=report, check=check,
        )  # fmt: skip
    return found.images, found
