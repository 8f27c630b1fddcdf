"""Datasets and their LightningDataModules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glow.data.base import ArrayData
from glow.data.digits import Digits
from glow.data.image_folder import ImageFolder
from glow.data.torchvision_data import TorchvisionData
from glow.data.toy import Toy
from glow.errors import check_choice

DATASETS = {f"glow.data.{kind.__name__}": kind for kind in (Digits, ImageFolder, TorchvisionData, Toy)}
"""What the ``_target_`` of a saved configuration may be: a file cannot ask for other code."""


def build_data(config: Mapping[str, Any], seed: int) -> ArrayData:
    """The data that a plain ``dataset`` configuration describes.

    Raises:
        UsageError: an unknown ``_target_``, or a setting that the dataset refuses.
    """
    check_choice("dataset._target_", config.get("_target_"), DATASETS)
    kind = DATASETS[config["_target_"]]
    return kind(seed=seed, **{k: v for k, v in config.items() if k not in ("_target_", "seed")})


__all__ = ["DATASETS", "ArrayData", "Digits", "ImageFolder", "TorchvisionData", "Toy", "build_data"]
