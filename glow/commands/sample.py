"""``python sample.py``: what a trained flow draws, from noise and from real images."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from glow.commands.complete import draw_completions
from glow.commands.inputs import as_list, folder_pictures, images, labelled, make_folder
from glow.commands.samples import FORMATS, decode_warnings, draw_samples, one_temperature
from glow.commands.session import Session
from glow.errors import UsageError, check_choice, check_positive
from glow.evaluation.latents import PATHS, interpolate, move, redraw
from glow.flows.pixels import PixelByPixel

GROUP = 500
"""At most this many images of a group give its mean latents."""
EXPORT_DTYPES = {"float32": torch.float32, "float16": torch.float16}
"""What ``export_dtype`` may be."""


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
    if cfg.format is not None:
        check_choice("format", cfg.format, FORMATS)
    check_choice("path", cfg.path, PATHS)
    check_positive("seed", cfg.seed, integer=True, zero=True)
    check_positive("n", cfg.n, integer=True)
    check_positive("completions", cfg.completions, integer=True)
    for key in ("batch_size", "steps"):
        if cfg[key] is not None:
            check_positive(key, cfg[key], integer=True)
    session = Session.open(cfg)
    if cfg.export is not None:
        return export(session)
    if session.density.grey_levels is None and cfg.mode != "samples":
        raise UsageError(f"mode={cfg.mode} needs a model of images, and this one is of points")
    exact = cfg.mode == "complete" and isinstance(session.density, PixelByPixel)
    if cfg.mode != "samples" and not exact:
        _ = session.normal_flow  # raises before a folder is made
    session.make_folder("samples")
    metrics = MODES[cfg.mode](session)
    report = {
        "ckpt": str(session.saved.path), "steps": session.saved.steps, "weights": session.weights, "mode": cfg.mode,
        "seed": cfg.seed, "command": " ".join(["python", *sys.argv]), **metrics, "files": session.files,
    }  # fmt: skip
    session.write_report(report, f"{cfg.mode}.json")
    print(f"in {session.folder}: {', '.join([*session.files, f'{cfg.mode}.json'])}")
    return report


def export(session: Session) -> dict[str, Any]:
    """Write the weights and their configuration as safetensors."""
    if not isinstance(session.cfg.export, str) or Path(session.cfg.export).suffix != ".safetensors":
        raise UsageError(f"export={session.cfg.export} must end in .safetensors")
    check_choice("export_dtype", session.cfg.export_dtype, EXPORT_DTYPES)
    path = Path(session.cfg.export)
    make_folder(path.parent)
    dtype = EXPORT_DTYPES[session.cfg.export_dtype]
    session.saved.export(path, session.weights, session.classes, dtype)
    print(f"wrote {path}: {session.weights} weights and the configuration; glow.load('{path}') reads it")
    return {"ckpt": str(session.saved.path), "weights": session.weights, "files": [str(path)]}


def draw_interpolation(session: Session) -> dict[str, Any]:
    """Between two images as a strip, or four as a sheet."""
    cfg = session.cfg
    steps = cfg.steps or 9
    if steps < 2:
        raise UsageError(f"steps must be at least 2, the ends, got {steps}")
    x, y = images(session, [0, 1], (2, 4))
    vectors = interpolate(session.flow.flatten(session.encode(x, y)), steps, cfg.path)
    if y is not None:  # a label changes in the middle of the way
        half = (torch.arange(steps) * 2 >= steps).long()
        y = y[half] if len(x) == 2 else y[(2 * half[:, None] + half).flatten()]
    decoded = session.decode(session.flow.unflatten(vectors), y, "points")
    title = f"real images at the {'ends' if len(x) == 2 else 'corners'}, path={cfg.path}"
    session.draw_grid(decoded.images, "interpolate", steps, title=title, labels=y)
    return {"points": len(vectors), "path": cfg.path, **decode_warnings(decoded)}


def draw_reconstructions(session: Session) -> dict[str, Any]:
    """Real images, what comes back, and what is left when the finest scales are drawn anew."""
    flow, temperature = session.flow, one_temperature(session, 0.7)
    x, y = images(session, range(8))
    latents = session.encode(x, y)
    rows, errors = [x], []
    metrics: dict[str, Any] = {}
    for finest in range(len(latents) + 1):
        decoded = session.decode(
            redraw(latents, range(finest), temperature, session.generator("redraw")), y, "reconstructions"
        )
        rows.append(decoded.images)
        errors.append((decoded.images.int() - x.int()).abs().float())
        if finest == 0:
            metrics = decode_warnings(decoded)
    print(
        f"largest error of {len(x)} reconstructions: {int(errors[0].max())} of {session.levels} grey levels"
    )
    print(f"left when the finest scales are drawn anew at temperature {temperature:g}:")
    for finest, error in enumerate(errors):
        share = sum(math.prod(s) for s in flow.latent_shapes[:finest]) / math.prod(flow.event_shape)
        print(f"  {finest} scales, {share:4.0%} of the latents: mean error {error.mean():6.2f} grey levels")
    session.draw_grid(
        torch.cat(rows), "reconstruct", len(x), title=f"finest scales drawn anew, temperature {temperature:g}",
        rows=["image", *(f"{finest} of {len(latents)} anew" for finest in range(len(latents) + 1))],
        labels=None if y is None else y.repeat(len(rows)),
    )  # fmt: skip
    mean_error = [float(e.mean()) for e in errors]
    return {"largest_error": int(errors[0].max()), "mean_error_by_scales_redrawn": mean_error, **metrics}


def draw_manipulation(session: Session) -> dict[str, Any]:
    """Images moved along the difference of two groups' mean latents (Kingma & Dhariwal 2018, section 6.1)."""
    cfg = session.cfg
    groups = [] if cfg.groups is None else as_list("groups", cfg.groups)
    if len(groups) != 2:
        raise UsageError("groups must be two classes, groups=[0,9], or two folders of pictures")
    strengths = as_list("strengths", cfg.strengths)
    for value in strengths:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"strengths must be numbers, got {value!r}")
    members = [_group(session, group) for group in groups]
    direction = mean_latents(session, *members[1]) - mean_latents(session, *members[0])
    counts = [len(x) for x, _ in members]
    x, y = images(session, range(6))
    vectors = session.flow.flatten(session.encode(x, y))
    moved = move(vectors, direction[None], torch.tensor(strengths, dtype=vectors.dtype)[:, None])
    y = None if y is None else y.repeat_interleave(len(strengths))
    decoded = session.decode(session.flow.unflatten(moved), y, "images")
    start, end = (Path(str(group)).name for group in groups)
    session.draw_grid(
        decoded.images, "manipulate", len(strengths), title=f"moved from {start} towards {end}, by strength",
        heads=[f"{strength:g}" for strength in strengths], labels=y,
    )  # fmt: skip
    print(f"from {cfg.groups[0]} ({counts[0]} images) to {groups[1]} ({counts[1]}), strengths {strengths}")
    return {
        "groups": groups, "group_sizes": counts, "strengths": strengths,
        "distance": float(direction.norm()), **decode_warnings(decoded),
    }  # fmt: skip


def mean_latents(session: Session, x: Tensor, y: Tensor | None) -> Tensor:
    """The mean latent vector (D,) of images with their labels."""
    return session.flow.flatten(session.encode(x, y)).mean(0)


def _group(session: Session, group: object) -> tuple[Tensor, Tensor | None]:
    if isinstance(group, str):
        return labelled(session, folder_pictures("groups", group, session.flow, GROUP))
    return class_members(session, group)


def class_members(session: Session, group: object) -> tuple[Tensor, Tensor | None]:
    """The first images of the data with a label, and their labels for a class-conditional model.

    Raises:
        UsageError: there are none.
    """
    x, y = session.data.x, session.data.y
    if y is None:
        raise UsageError("groups: the data has no labels; give two folders of pictures")
    if isinstance(group, bool) or not isinstance(group, int) or not (y == group).any():
        raise UsageError(f"groups: {group!r} is none of the labels {y.unique().tolist()}")
    chosen = (y == group).nonzero().flatten()[:GROUP]
    return labelled(session, x[chosen], y[chosen])


MODES: dict[str, Callable[[Session], dict[str, Any]]] = {
    "samples": draw_samples,
    "interpolate": draw_interpolation,
    "reconstruct": draw_reconstructions,
    "complete": draw_completions,
    "manipulate": draw_manipulation,
}
"""What ``mode`` may be."""
