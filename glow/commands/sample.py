"""``python sample.py``: what a trained flow draws, from noise and from real images."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from glow.checkpoint import SavedModel
from glow.commands.inputs import as_list, check_path, folder_pictures, make_folder, open_saved
from glow.commands.session import Session
from glow.errors import UsageError, check_choice, check_positive
from glow.evaluation.completion import complete, trace_picture
from glow.evaluation.latents import PATHS, Decoded, flatten, interpolate, redraw, unflatten
from glow.evaluation.masks import parse_mask
from glow.evaluation.plane import scatter_picture
from glow.flows.flow import Flow
from glow.seeds import generator

FORMATS = ("png", "npy", "folder")
STRIP = 10
"""Images in a row of the strip that compares temperatures."""
STEPS = 300
"""Of a completion: a minute for four of a small image on a CPU."""
GROUP = 500
"""At most this many images of a group give its mean latents."""


def sample(cfg: DictConfig) -> dict[str, Any]:
    """Draw as configured; pictures and ``MODE.json`` go to the run's ``samples``.

    Args:
        cfg: the composed ``conf/sample.yaml``.

    Returns:
        What the JSON file holds.

    Raises:
        UsageError: a setting that cannot work.
    """
    check_choice("mode", cfg.mode, MODES)
    check_choice("format", cfg.format, FORMATS)
    check_choice("path", cfg.path, PATHS)
    check_positive("seed", cfg.seed, integer=True, zero=True)
    check_positive("n", cfg.n, integer=True)
    check_positive("completions", cfg.completions, integer=True)
    for key in ("batch_size", "steps"):
        if cfg[key] is not None:
            check_positive(key, cfg[key], integer=True)
    saved, device = open_saved(cfg)
    if cfg.export is not None:
        return _export(cfg, saved)
    session = Session(cfg, saved, saved.flow(cfg.weights).to(device))
    if session.density.grey_levels is None and cfg.mode != "samples":
        raise UsageError(f"mode={cfg.mode} needs a model of images, and this one is of points")
    if cfg.mode != "samples" and not session.flow.base.is_normal:
        raise UsageError(f"mode={cfg.mode} needs a flow with a standard normal base: model.base=normal")
    figures = MODES[cfg.mode](session)
    report = {
        "ckpt": str(saved.path),
        "steps": saved.steps,
        "weights": cfg.weights or saved.best,
        "mode": cfg.mode,
        "seed": cfg.seed,
        "command": " ".join(["python", *sys.argv]),
        **figures,
        "files": [p.name for p in session.files],
    }
    path = session.folder / f"{cfg.mode}.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"in {session.folder}: {', '.join([*report['files'], path.name])}")
    return report


def _export(cfg: DictConfig, saved: SavedModel) -> dict[str, Any]:
    check_path("export", cfg.export)
    path = Path(cfg.export)
    if path.suffix != ".safetensors":
        raise UsageError(f"export={path} must end in .safetensors")
    make_folder(path.parent)
    saved.export(path, cfg.weights)
    weights = cfg.weights or saved.best
    print(f"wrote {path}: {weights} weights and the configuration; glow.load('{path}') reads it")
    return {"ckpt": str(saved.path), "weights": weights, "files": [str(path)]}


def _wrong(decoded: Decoded) -> dict[str, Any]:
    return {"not_finite": decoded.not_finite, "one_grey": decoded.one_grey}


def draw_samples(session: Session) -> dict[str, Any]:
    """``n`` samples at every temperature, from the same latents."""
    cfg, flow = session.cfg, session.density
    temperatures = session.temperatures(0.7)
    y = session.labels(cfg.n)
    n = cfg.n if y is None else len(y)
    by_row = flow.classes and cfg.label == "all"
    columns = n // flow.classes if by_row else math.ceil(math.sqrt(n))
    figures: list[dict[str, Any]] = []
    strip = []
    few = torch.linspace(0, n - 1, min(n, STRIP)).long()
    for temperature in temperatures:
        decoded = _drawn(session, n, y, temperature)
        _write_samples(session, decoded.images, f"samples_t{temperature}", columns)
        strip.append(decoded.images if flow.grey_levels is None else decoded.images[few])
        figures.append({"temperature": temperature, "n": n, **_wrong(decoded)})
    if len(temperatures) > 1 and flow.grey_levels is not None:
        session.draw_grid(torch.cat(strip), "temperature_strip", len(few))
    elif len(temperatures) > 1 and flow.event_shape == (2,):
        session.keep(
            scatter_picture(dict(zip(map(_at, temperatures), strip, strict=True))), "temperature_strip"
        )
    for row in figures:
        wrong = f"{len(row['not_finite'])} not finite, {len(row['one_grey'])} one grey"
        print(f"temperature {row['temperature']:<5g} {n:>6,} samples  {wrong}")
    return {"samples": figures, "labels": None if y is None else y.tolist()}


def _drawn(session: Session, n: int, y: Tensor | None, temperature: float) -> Decoded:
    """Samples from the same random numbers at every temperature."""
    source = session.random("samples")
    if isinstance(session.density, Flow):
        latents = session.density.draw(n, temperature=temperature, generator=source)
        return session.decode(latents, y, f"samples at {temperature:g}")
    return Decoded(session.density.sample(n, temperature=temperature, generator=source).cpu(), [], [])


def _at(temperature: float) -> str:
    return f"temperature {temperature:g}"


def _write_samples(session: Session, images: Tensor, name: str, columns: int) -> None:
    in_plane = session.density.event_shape == (2,)
    if session.cfg.format == "npy" or (session.density.grey_levels is None and not in_plane):
        path = session.folder / f"{name}.npy"
        np.save(path, images.numpy())
        session.files.append(path)
    elif session.cfg.format == "folder" and not in_plane:
        folder = session.folder / name
        shutil.rmtree(folder, ignore_errors=True)  # of another call, perhaps with more of them
        folder.mkdir(parents=True)
        grey = (images.float() * (255 / (session.levels - 1))).round().byte()
        for i, image in enumerate(grey):
            Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(folder / f"{i:06d}.png")
        session.files.append(folder)
    elif in_plane:
        session.keep(scatter_picture({"samples": images}), name)
    else:
        session.draw_grid(images, name, columns)


def draw_interpolation(session: Session) -> dict[str, Any]:
    """Between two images as a strip, or four as a sheet."""
    cfg, flow = session.cfg, session.flow
    steps = cfg.steps or 9
    if steps < 2:
        raise UsageError(f"steps must be at least 2, the ends, got {steps}")
    x, y = session.images([0, 1], (2, 4))
    vectors = interpolate(flatten(session.encode(x, y)), steps, cfg.path)
    if y is not None:  # a label changes in the middle of the way
        half = (torch.arange(steps) * 2 >= steps).long()
        y = y[half] if len(x) == 2 else y[(2 * half[:, None] + half).flatten()]
    decoded = session.decode(unflatten(vectors, flow), y, "points")
    session.draw_grid(decoded.images, "interpolate", steps)
    return {"points": len(vectors), "path": cfg.path, **_wrong(decoded)}


def draw_reconstructions(session: Session) -> dict[str, Any]:
    """Real images, what comes back, and what is left when the finest scales are drawn anew."""
    flow, temperature = session.flow, session.temperature(0.7)
    x, y = session.images(range(8))
    latents = session.encode(x, y)
    rows, errors = [x], []
    figures: dict[str, Any] = {}
    for finest in range(len(latents) + 1):
        decoded = session.decode(
            redraw(latents, finest, temperature, session.random("redraw")), y, "reconstructions"
        )
        rows.append(decoded.images)
        errors.append((decoded.images.int() - x.int()).abs().float())
        if finest == 0:
            figures = _wrong(decoded)
    print(
        f"largest error of {len(x)} reconstructions: {int(errors[0].max())} of {session.levels} grey levels"
    )
    print(f"left when the finest scales are drawn anew at temperature {temperature:g}:")
    for finest, error in enumerate(errors):
        share = sum(math.prod(s) for s in flow.latent_shapes[:finest]) / math.prod(flow.event_shape)
        print(f"  {finest} scales, {share:4.0%} of the latents: mean error {error.mean():6.2f} grey levels")
    session.draw_grid(torch.cat(rows), "reconstruct", len(x))
    mean_error = [float(e.mean()) for e in errors]
    return {"largest_error": int(errors[0].max()), "mean_error_by_scales_redrawn": mean_error, **figures}


def draw_completions(session: Session) -> dict[str, Any]:
    """Each image, the image with its hole, and several ways to fill it."""
    cfg, flow = session.cfg, session.flow
    temperature = session.temperature(1.0)
    x, y = session.images([0])
    missing = parse_mask(str(cfg.mask), flow.event_shape, session.random("mask"))
    rows, figures = [], []
    for i, image in enumerate(x):
        label = None if y is None else y[i]
        with tqdm(
            total=cfg.steps or STEPS, desc=f"image {i}", delay=2, disable=not sys.stderr.isatty()
        ) as bar:
            completion = complete(
                flow, image, missing, n=cfg.completions, steps=cfg.steps or STEPS, temperature=temperature, y=label,
                generator=generator("cpu", "complete", cfg.seed, i), progress=partial(_advance, bar),
            )  # fmt: skip
        hole = image.masked_fill(missing, session.levels // 2)
        rows += [image[None], hole[None], completion.images.cpu()]
        session.keep(trace_picture(completion), f"complete_trace_{i}" if len(x) > 1 else "complete_trace")
        figures.append(completion.figures())
        print(
            f"image {i}: {int(missing.sum())} of {missing.numel()} pixels missing; seen ones were off by "
            f"{completion.misfit.mean():.1f} grey levels before they were set; "
            f"{', '.join(f'{b:.2f}' for b in completion.trace[-1])} bits/dim"
        )
    session.draw_grid(torch.cat(rows), "complete", 2 + cfg.completions)
    return {"mask": str(cfg.mask), "missing_pixels": int(missing.sum()), "completions": figures}


def _advance(bar: tqdm, done: int) -> None:
    bar.update(done - bar.n)


def draw_manipulation(session: Session) -> dict[str, Any]:
    """Images moved along the difference of two groups' mean latents (Kingma & Dhariwal 2018, section 6.1)."""
    cfg, flow = session.cfg, session.flow
    groups = [] if cfg.groups is None else as_list("groups", cfg.groups)
    if len(groups) != 2:
        raise UsageError("groups must be two classes, groups=[0,9], or two folders of pictures")
    strengths = as_list("strengths", cfg.strengths)
    for value in strengths:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"strengths must be numbers, got {value!r}")
    means, counts = [], []
    for group in groups:
        members, labels = _group(session, group)
        means.append(flatten(session.encode(members, labels)).mean(0))
        counts.append(len(members))
    direction = means[1] - means[0]
    x, y = session.images(range(6))
    vectors = flatten(session.encode(x, y))
    moved = torch.cat([v + s * direction for v in vectors for s in torch.tensor(strengths)[:, None]]).view(
        -1, vectors.shape[1]
    )
    y = None if y is None else y.repeat_interleave(len(strengths))
    decoded = session.decode(unflatten(moved, flow), y, "images")
    session.draw_grid(decoded.images, "manipulate", len(strengths))
    print(f"from {cfg.groups[0]} ({counts[0]} images) to {groups[1]} ({counts[1]}), strengths {strengths}")
    return {
        "groups": groups, "group_sizes": counts, "strengths": strengths,
        "distance": float(direction.norm()), **_wrong(decoded),
    }  # fmt: skip


def _group(session: Session, group: object) -> tuple[Tensor, Tensor | None]:
    if isinstance(group, str):
        return session.labelled(folder_pictures(group, session.flow, GROUP))
    x, y = session.split
    if y is None:
        raise UsageError("groups: the data has no labels; give two folders of pictures")
    if isinstance(group, bool) or not isinstance(group, int) or not (y == group).any():
        raise UsageError(f"groups: {group!r} is none of the labels {y.unique().tolist()}")
    chosen = (y == group).nonzero().flatten()[:GROUP]
    return session.labelled(x[chosen], y[chosen])


MODES: dict[str, Callable[[Session], dict[str, Any]]] = {
    "samples": draw_samples,
    "interpolate": draw_interpolation,
    "reconstruct": draw_reconstructions,
    "complete": draw_completions,
    "manipulate": draw_manipulation,
}
"""What ``mode`` may be."""

__all__ = ["MODES", "sample"]
