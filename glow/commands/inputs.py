"""What ``sample`` and ``evaluate`` are told: a device, pictures, lists, a folder to write into."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import ListConfig
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import UsageError


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one, else the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    have = ["cpu", *([accelerator.type] if accelerator else [])]
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError):
        device = None
    if device is None or device.type not in have:
        raise UsageError(f"device={name} is not here; take auto, {' or '.join(have)}")
    return device


def read_pictures(name: str, paths: Sequence[str], flow: Distribution) -> Tensor:
    """Pictures from files, cropped and resized to what the flow takes: uint8 (N, C, H, W)."""
    from glow.data.picture_files import read_picture

    channels, height, width = flow.event_shape
    assert flow.grey_levels is not None
    if height != width or channels not in (1, 3):
        raise UsageError(
            f"pictures cannot be brought to the model's {flow.event_shape}: take dataset indices"
        )
    pictures = []
    for path in paths:
        try:
            pictures.append(read_picture(Path(path), height, channels))
        except Exception as error:  # PIL raises many kinds
            raise UsageError(f"{name}: {path} cannot be read ({error})") from error
    return (torch.stack(pictures).int() * flow.grey_levels // 256).to(torch.uint8)


def folder_pictures(name: str, folder: str, flow: Distribution, most: int) -> Tensor:
    """The first pictures below a folder."""
    from glow.data.picture_files import pictures_below

    if not Path(folder).is_dir():
        raise UsageError(f"{name}: {folder} is not a folder")
    try:
        files = pictures_below(Path(folder))
    except UsageError as error:
        raise UsageError(f"{name}: there are no pictures below {folder}") from error
    return read_pictures(name, [str(p) for p in files[:most]], flow)


def as_list(name: str, value: object) -> list[Any]:
    """A setting that is one value or a list of some."""
    values = list(value) if isinstance(value, ListConfig) else [value]
    if not values or value is None:
        raise UsageError(f"{name} needs at least one value, got {value}")
    return values


def make_folder(folder: Path) -> Path:
    """The folder, made if need be; a ``UsageError`` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error}): set out=") from error
    return folder
