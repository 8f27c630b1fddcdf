"""Recipes that assemble a ``Flow`` from bijections and networks, and the densities beside it; no new maths."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch

from glow.distributions.base import Distribution
from glow.errors import UsageError, check_choice, nearest
from glow.flows.autoregressive import iaf, maf
from glow.flows.glow import glow
from glow.flows.made import made
from glow.flows.nice import nice
from glow.flows.nsf import nsf
from glow.flows.planar import planar, radial
from glow.flows.realnvp import realnvp
from glow.flows.vae import vae

FAMILIES: dict[str, Callable[..., Distribution]] = {
    "glow": glow, "nice": nice, "realnvp": realnvp, "maf": maf, "iaf": iaf, "nsf": nsf, "planar": planar,
    "radial": radial, "made": made, "vae": vae,
}  # fmt: skip
"""What ``model.family`` may be. Names instead of import paths: a checkpoint's configuration can only
ask for one of these, never for other code."""


def build(config: Mapping[str, Any]) -> Distribution:
    """The flow, or other density, that a plain ``model`` configuration describes.

    Args:
        config: ``family`` (a key of ``FAMILIES``), an optional ``name`` that only labels, and the
            arguments of that function.

    Raises:
        UsageError: an unknown family or argument (with the nearest known ones), or a value that the
            family refuses.
    """
    arguments = {k: v for k, v in config.items() if k not in ("family", "name")}
    family = config.get("family")
    check_choice("model.family", family, FAMILIES)
    recipe = FAMILIES[str(family)]
    known = inspect.signature(recipe).parameters
    for name in arguments:
        if name not in known:
            raise UsageError(f"model.{name} is not an option of {family}{nearest(name, known)}")
    missing = [n for n, p in known.items() if p.default is p.empty and n not in arguments]
    if missing:
        raise UsageError(f"model.{missing[0]} is missing: {family} needs it")
    _check_size(recipe, arguments)
    return recipe(**arguments)


COUNTS = ("depth", "layers", "levels", "blocks", "hidden_layers", "masks")
"""Arguments that say how often something is repeated."""


def _check_size(recipe: Callable[..., Distribution], arguments: Mapping[str, Any]) -> None:
    """Refuse what would take all memory, or for ever, to build."""
    for name, value in arguments.items():
        numbers = [n for n in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(n, int)]
        most = 1_000 if name in COUNTS else 2**24
        if math.prod(map(abs, numbers)) > most:
            raise UsageError(f"model.{name} must be at most {most:,}, in all, got {value}")
    if not any(isinstance(n, int) and n > 2_048 for n in arguments.values()):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with torch.device("meta"):  # shapes without memory
            needed = sum(p.numel() * p.element_size() for p in recipe(**arguments).parameters())
    except RuntimeError as error:  # more than an integer can count, or than the masks of a MADE have room for
        raise UsageError(f"the model cannot be built: {str(error).splitlines()[0]}") from error
    if needed > memory:
        raise UsageError(
            f"the model's weights need {needed / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f} GiB: "
            "take smaller numbers"
        )


__all__ = [
    "FAMILIES",
    "build",
    "glow",
    "iaf",
    "made",
    "maf",
    "nice",
    "nsf",
    "planar",
    "radial",
    "realnvp",
    "vae",
]
