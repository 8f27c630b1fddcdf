"""``python sample.py mode=samples``: from noise, at one temperature or several, as pictures, sound or numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glow.bijections import guided
from glow.commands.inputs import as_list, labels
from glow.commands.posterior import known_posterior, observation
from glow.commands.session import Session
from glow.errors import UsageError, check_positive
from glow.evaluation.latents import Decoded
from glow.evaluation.pictures import columns_for, to_bytes
from glow.flows.flow import Flow
from glow.flows.pixels import PixelByPixel

FORMATS = ("png", "npy", "folder", "wav")
STRIP = 10
"""Images in a row of the strip that compares temperatures."""


def decode_warnings(decoded: Decoded) -> dict[str, Any]:
    """Which of the images are not finite, or of one grey."""
    return {"not_finite": decoded.not_finite, "one_grey": decoded.one_grey}


def temperatures(session: Session, default: float | None = None) -> list[float]:
    """``temperature`` as a list; without it and without a ``default``, what the weights' card says, or else 0.7."""
    given = session.cfg.temperature
    if default is None:
        default = session.card.get("draws", {}).get("temperature", 0.7)
    values = [default] if given is None else as_list("temperature", given)
    for value in values:
        check_positive("temperature", value, zero=True)
    return list(dict.fromkeys(values))


def one_temperature(session: Session, default: float) -> float:
    """``temperature`` where there can be only one."""
    values = temperatures(session, default)
    if len(values) > 1:
        raise UsageError(f"mode={session.cfg.mode} takes one temperature, got {values}")
    return values[0]


def draw_samples(session: Session) -> dict[str, Any]:
    """``n`` samples at every temperature, from the same latents."""
    cfg, flow = session.cfg, session.density
    y, seen = labels(session, cfg.n), observation(session)
    n = cfg.n if y is None else len(y)
    if len(guidances := guidances_for(session, y)) > 1:
        raise UsageError(f"mode=samples takes one guidance, got {guidances}")
    (guidance,) = guidances
    chosen = _format(session)
    beside = known_posterior(session, seen, n) if seen is not None and chosen == "png" else {}
    metrics: list[dict[str, Any]] = []
    strip: dict[str, Tensor] = {}
    few = torch.linspace(0, n - 1, min(n, STRIP)).long()
    few = few if y is None else few[y[few].argsort(stable=True)]  # classes in order
    for temperature in temperatures(session, None if seen is None else 1):
        given = y if seen is None else seen.expand(n, -1)
        decoded = draw(session, n, given, temperature, guidance)
        _write_samples(session, decoded.images, temperature, guidance, y, chosen, beside)
        strip[f"T = {temperature:g}"] = decoded.images
        metrics.append({"temperature": temperature, "n": n, **decode_warnings(decoded)})
    if len(strip) > 1 and chosen == "wav":
        first = torch.cat([signals[:1] for signals in strip.values()])
        session.draw_signals(first, "temperature_strip", rows=list(strip))
    elif len(strip) > 1 and flow.grey_levels is not None and flow.kind == "images":
        session.draw_grid(
            torch.cat([images[few] for images in strip.values()]), "temperature_strip", len(few), rows=list(strip),
            labels=None if y is None else y[few].repeat(len(strip)),
        )  # fmt: skip
    elif len(strip) > 1 and flow.event_shape == (2,):
        _scatter(session, strip | beside, "temperature_strip")
    for row in metrics:
        counts = f"{len(row['not_finite'])} not finite, {len(row['one_grey'])} one grey"
        print(f"temperature {row['temperature']:<5g} {n:>6,} samples  {counts}")
    report = {"samples": metrics, "guidance": guidance, "labels": None if y is None else y.tolist()}
    return report if seen is None else report | {"observation": seen.tolist()}


def draw(
    session: Session,
    n: int,
    y: Tensor | None,
    temperature: float,
    guidance: float,
    check: Callable[[], None] = lambda: None,
) -> Decoded:
    """Samples from the same random numbers at every temperature; ``check`` is called before each row of pixels that a model
    draws in order, and may raise."""
    source = session.generator("samples")
    if isinstance(session.density, PixelByPixel):
        session.without_graphs("sampling")
        images = session.density.sample(
            n, temperature=temperature, generator=source, progress=lambda *_: check()
        )
        return Decoded(images.cpu(), [], [])
    if isinstance(session.density, Flow):
        latents = session.density.sample_latents(n, temperature=temperature, generator=source)
        with guided(session.density, guidance):
            return session.decode(latents, y, f"samples at {temperature:g}")
    session.without_graphs("sampling")
    return Decoded(session.density.sample(n, temperature=temperature, generator=source).cpu(), [], [])


def guidances_for(session: Session, y: Tensor | None) -> list[float]:
    """``guidance`` as a list, for the labels (n,); without it what the weights' card says if ``temperature`` is absent, too, or 0."""
    given, labelled = session.cfg.guidance, y is not None and bool((y >= 0).all())
    if given is None:
        default = session.cfg.temperature is None and labelled
        return [session.card.get("draws", {}).get("guidance", 0) if default else 0]
    values = as_list("guidance", given)
    for value in values:
        check_positive("guidance", value, zero=True)
        if value and not labelled:
            raise UsageError(
                f"guidance={value:g} goes towards a label: it needs a class-conditional model, and label="
            )
    return list(dict.fromkeys(values))


def _format(session: Session) -> str:
    """What to write: as asked, else sound or a picture where samples can be heard or drawn, else numbers."""
    density = session.density
    possible: tuple[str, ...] = ("png", "npy") if density.event_shape == (2,) else ("npy",)
    if density.grey_levels is not None:
        possible = ("wav", "npy") if density.kind == "signals" else ("png", "npy", "folder")
    chosen = str(session.cfg.format or possible[0])
    if chosen not in possible:
        raise UsageError(
            f"format={chosen} is not for a model of {density.kind}: take format={' or '.join(possible)}"
        )
    return chosen


def _write_samples(
    session: Session,
    images: Tensor,
    temperature: float,
    guidance: float,
    y: Tensor | None,
    chosen: str,
    beside: dict[str, Tensor],
) -> None:
    name, title = f"samples_t{temperature}", f"temperature {temperature:g}"
    if guidance:
        name, title = f"{name}_g{guidance}", f"{title}, guidance {guidance:g}"
    if chosen == "npy":
        np.save(session.folder / f"{name}.npy", images.numpy())
        session.files.append(f"{name}.npy")
    elif chosen == "folder":
        folder = session.new_folder(name)
        for i, image in enumerate(to_bytes(images, session.levels)):
            Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(folder / f"{i:06d}.png")
    elif chosen == "wav":
        session.save_signals(images, name, title=title)
    elif session.density.grey_levels is None:
        _scatter(session, {title: images} | beside, name)
    else:
        n, a_row_each = len(images), session.density.classes and session.cfg.label == "all"
        columns = n // session.density.classes if a_row_each else columns_for(n, y)
        session.draw_grid(images, name, columns, title=title, labels=y)


def _scatter(session: Session, points: dict[str, Tensor], name: str) -> None:
    from glow.evaluation.plane import scatter_picture  # slow to import

    session.save(scatter_picture(points), name)
