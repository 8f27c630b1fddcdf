"""Datasets and their LightningDataModules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from glow.data.base import ArrayData
from glow.data.digits import Digits
from glow.data.image_folder import ImageFolder
from glow.data.torchvision_data import TorchvisionData
from glow.data.toy import Toy
from glow.errors import UsageError, nearest

DATASETS = {f"glow.data.{kind.__name__}": kind for kind in (Digits, ImageFolder, TorchvisionData, Toy)}
"""What the ``_target_`` of a saved configuration may be: a file cannot ask for other code."""


def build_data(
    config: Mapping[str, Any],
    seed: int,
    classes: Mapping[str, Callable[..., Any]] = {},
) -> Any:
    """The data that a plain ``dataset`` configuration describes.

    Args:
        config: ``_target_``, a key of ``DATASETS`` or of ``classes``, and its arguments.
        seed: decides the splits and the order.
        classes: by dotted path, classes of the caller's own, which the caller trusts.

    Raises:
        UsageError: an unknown ``_target_``, or a setting that the dataset refuses.
    """
    target = str(config.get("_target_"))
    if target not in DATASETS and target not in classes:
        known = f"dataset._target_={target!r} is not one of {', '.join(DATASETS)}{nearest(target, DATASETS)}"
        again = f"; is it a class of your own? Name it again: ++dataset._target_={target}"
        raise UsageError(known + ("" if target.startswith("glow.") else again))
    kind = classes.get(target) or DATASETS[target]
    return kind(seed=seed, **{k: v for k, v in config.items() if k not in ("_target_", "seed")})


__all__ = ["DATASETS", "ArrayData", "Digits", "ImageFolder", "TorchvisionData", "Toy", "build_data"]
