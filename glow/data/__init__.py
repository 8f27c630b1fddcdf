"""Datasets and their LightningDataModules."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from glow.data.audio_folder import AudioFolder
from glow.data.base import ArrayData
from glow.data.celeba import CelebA
from glow.data.digits import Digits
from glow.data.downsampled_imagenet import DownsampledImageNet
from glow.data.image_folder import ImageFolder
from glow.data.simulated import Simulated
from glow.data.tones import Tones
from glow.data.torchvision_data import TorchvisionData
from glow.data.toy import Toy
from glow.errors import UsageError, nearest

DATASETS = {
    f"glow.data.{kind.__name__}": kind
    for kind in (
        Digits,
        ImageFolder,
        TorchvisionData,
        CelebA,
        DownsampledImageNet,
        Toy,
        Simulated,
        Tones,
        AudioFolder,
    )
}
"""What the ``_target_`` of a saved configuration may be: a file cannot ask for other code."""


def build_data(
    config: Mapping[str, Any], seed: int, *, classes: Mapping[str, Callable[..., Any]] = {}
) -> ArrayData:
    """The data that a plain ``dataset`` configuration describes.

    Args:
        config: ``_target_``, and the arguments of the class that it names.
        seed: see ``ArrayData``; a class of the caller's that takes no ``seed`` is made without.
        classes: classes besides those of ``DATASETS``, by the ``_target_`` that stands for them, which the caller has
            named and trusts.

    Raises:
        UsageError: an unknown ``_target_``, or a setting that the dataset refuses.
    """
    known: dict[str, Any] = {**DATASETS, **classes}
    target = str(config.get("_target_"))
    if target not in known:
        raise UsageError(
            f"dataset._target_={target!r} is not one of {', '.join(known)}{nearest(target, known)}; is it a class of your "
            f"own? Name it again: ++dataset._target_={target}"
        )
    arguments = {k: v for k, v in config.items() if k not in ("_target_", "seed")}
    parameters = signature(known[target]).parameters
    if "seed" in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        arguments["seed"] = seed
    return known[target](**arguments)


__all__ = [
    "DATASETS",
    "ArrayData",
    "AudioFolder",
    "CelebA",
    "Digits",
    "DownsampledImageNet",
    "ImageFolder",
    "Simulated",
    "Tones",
    "TorchvisionData",
    "Toy",
    "build_data",
]
