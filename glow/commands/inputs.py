"""What ``sample`` and ``evaluate`` are told: a device, a folder to write into, real images and labels."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import ListConfig
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import UsageError, check_positive

if TYPE_CHECKING:
    from glow.commands.session import Session


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

    assert flow.grey_levels is not None
    if flow.kind != "images":
        raise UsageError(f"{name}: pictures are no {flow.kind}: take dataset indices")
    channels, height, width = flow.event_shape
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


def labels(session: "Session", n: int) -> Tensor | None:
    """Labels for ``n`` samples: the classes in turn, or what ``label`` says."""
    label, classes = session.cfg.label, session.density.classes
    if not classes:
        if label is not None:
            raise UsageError(f"label={label} was given, but this model is not class-conditional")
        return None
    if label == "all":
        return torch.arange(classes).repeat_interleave(-(-n // classes))
    if label == "none":
        return torch.full((n,), -1)
    wanted = list(range(classes)) if label is None else as_list("label", label)
    for value in wanted:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < classes:
            raise UsageError(
                f"label must be from 0 to {classes - 1}, a list of these, all or none; got {label}"
            )
    return torch.tensor(wanted).repeat(-(-n // len(wanted)))[:n]


def images(
    session: "Session", default: Sequence[int], counts: Sequence[int] | None = None
) -> tuple[Tensor, Tensor | None]:
    """The real images of the settings, uint8 (N, C, H, W), and their labels for a class-conditional model."""
    chosen = list(default) if session.cfg.images is None else as_list("images", session.cfg.images)
    if counts and len(chosen) not in counts:
        many = " or ".join(map(str, counts))
        raise UsageError(f"mode={session.cfg.mode} takes {many} images, got images={chosen}")
    found = torch.stack([_image(session, c) for c in chosen])
    y = None if any(isinstance(c, str) for c in chosen) else session.data.y
    return labelled(session, found, None if y is None else y[chosen])


def _image(session: "Session", chosen: Any) -> Tensor:
    """A picture by its path, or an example of the split by its index."""
    if isinstance(chosen, str):
        return read_pictures("images", [chosen], session.density)[0]
    check_positive("images", chosen, integer=True, zero=True)
    if chosen >= len(session.data.x):
        raise UsageError(f"images has {chosen}, but the split has {len(session.data.x)} examples")
    return session.data.x[chosen]


def labelled(session: "Session", x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Images with their labels, or those of ``label`` if it is set, for a class-conditional model.

    None in the modes that move images, unless ``label`` is set: latents without a label hold the class, too.
    """
    if session.cfg.label == "all":
        raise UsageError(f"label=all is for mode=samples, not for mode={session.cfg.mode}")
    if session.cfg.label is not None:
        y = labels(session, len(x))
    elif session.cfg.mode in ("interpolate", "manipulate"):
        y = None
    return x, y if session.density.classes else None  # no labels: the density without them
