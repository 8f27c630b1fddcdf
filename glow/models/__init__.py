"""Recipes that assemble a ``Flow`` from bijections and networks, and the densities beside it; no new maths."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from glow.density import Density
from glow.errors import UsageError, check_choice, nearest
from glow.models.autoregressive import iaf, maf
from glow.models.glow import glow
from glow.models.made import made
from glow.models.nice import nice
from glow.models.nsf import nsf
from glow.models.planar import planar, radial
from glow.models.realnvp import realnvp
from glow.models.vae import vae

FAMILIES: dict[str, Callable[..., Density]] = {
    "glow": glow, "nice": nice, "realnvp": realnvp, "maf": maf, "iaf": iaf, "nsf": nsf, "planar": planar,
    "radial": radial, "made": made, "vae": vae,
}  # fmt: skip
"""What ``model.family`` may be. Names instead of import paths: a checkpoint's configuration can only
ask for one of these, never for other code."""


def build(config: Mapping[str, Any]) -> Density:
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
    return recipe(**arguments)


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
