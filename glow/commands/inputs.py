"""What ``sample`` and ``evaluate`` start from: a saved flow, its device, and data for it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from glow.checkpoint import SavedModel, read_model, resolve
from glow.commands.main import compose, explain
from glow.data import ArrayData, build_data
from glow.data.base import Arrays, Split
from glow.data.picture_files import pictures_below, read_picture
from glow.distributions.base import Distribution
from glow.errors import UsageError, check_choice, check_positive, nearest

SPLITS = ("train", "val", "test", "all")


def open_saved(cfg: DictConfig) -> tuple[SavedModel, torch.device]:
    """The checkpoint that ``cfg.ckpt`` means, and the device that ``cfg.device`` does; says which."""
    if cfg.weights is not None:
        check_choice("weights", cfg.weights, ("ema", "raw"))
    for key in ("ckpt", "out", "output_dir"):
        check_path(key, cfg[key])
    torch.backends.cudnn.allow_tf32 = False  # as in training: float32 means IEEE
    saved, device = read_model(resolve(cfg.ckpt, cfg.output_dir)), choose_device(cfg.device)
    if cfg.weights is not None:
        check_choice("weights", cfg.weights, saved.weights)
    print(f"{saved.path}, {saved.steps:,} steps, on {device}", flush=True)
    return saved, device


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


def dataset_config(overrides: Sequence[str], saved: SavedModel) -> dict[str, Any]:
    """The configuration of the data: that of the checkpoint, or another by name, with single keys changed.

    Args:
        overrides: ``dataset=NAME`` and ``dataset.KEY=VALUE`` as on the command line of ``train.py``.
        saved: its grey levels are the data's, too.

    Raises:
        UsageError: an unknown name or key, or no name for a checkpoint that has no data.
    """
    config: Any = saved.dataset and dict(saved.dataset)
    if config:  # by its name, too, it is the one that was trained on, with its own root and splits
        overrides = [o for o in overrides if o != f"dataset={config['name']}"]
    changes = [o for o in overrides if not o.startswith("dataset=")]
    if len(changes) < len(overrides):
        try:
            composed = compose("train", overrides)
        except Exception as error:
            raise UsageError(explain(error, "train", list(overrides))) from error
        config = OmegaConf.to_container(composed.dataset, resolve=True, throw_on_missing=True)
    elif config is None:
        raise UsageError(f"{saved.path} does not say what data it was trained on: set dataset=")
    else:
        for change in changes:
            key = change.partition("=")[0].removeprefix("dataset.")
            if key not in config:
                raise UsageError(f"dataset.{key} is not a setting of {config['name']}{nearest(key, config)}")
            try:
                parsed = OverridesParser.create().parse_override(change)
            except HydraException as error:
                raise UsageError(f"{change} cannot be read: put quotes around the value") from error
            if parsed.is_sweep_override():
                raise UsageError(f"{change} is a list for train.py -m, and one value is wanted")
            config[key] = parsed.value()
    if config.get("grey_levels") is not None:
        config["grey_levels"] = saved.model.get("grey_levels", config["grey_levels"])
    return config


def other_config(name: str, overrides: Sequence[str], saved: SavedModel) -> dict[str, Any]:
    """The configuration of another dataset, which lies where the checkpoint's does if both are torchvision's."""
    config = dataset_config([f"dataset={name}", *overrides], dataclasses.replace(saved, dataset=None))
    beside = saved.dataset is not None and "kind" in saved.dataset and "kind" in config
    if beside and not any(o.startswith("dataset.root=") for o in overrides):
        assert saved.dataset is not None
        config["root"] = saved.dataset["root"]
    return config


def load_split(config: dict[str, Any], split: str, flow: Distribution, seed: int) -> tuple[ArrayData, Arrays]:
    """The data and one of its splits, or ``all`` of them.

    Raises:
        UsageError: its examples do not fit the flow.
    """
    check_choice("split", split, SPLITS)
    if "image_size" in config and len(flow.event_shape) == 3:  # pictures can be brought to any size
        channels, size, _ = flow.event_shape
        config = config | {"image_size": size, "channels": channels, "shape": list(flow.event_shape)}
    data = build_data(config, seed)
    if data.shape != flow.event_shape:
        raise UsageError(
            f"dataset={data.name} has examples of shape {data.shape}, but the model takes {flow.event_shape}"
        )
    data.prepare_data()
    for stage in ("fit", "test") if split == "all" else ("test" if split == "test" else "fit",):
        data.setup(stage)
    if split != "all":
        return data, data.splits[cast(Split, split)]
    xs, ys = zip(*data.splits.values(), strict=True)
    return data, (torch.cat(xs), torch.cat(ys) if all(y is not None for y in ys) else None)


def labels_for(flow: Distribution, y: Tensor | None, name: str) -> Tensor | None:
    """The labels that a class-conditional flow needs, None for any other."""
    if not flow.classes:
        return None
    if y is None:
        raise UsageError(f"the model is class-conditional and needs labels for {name}: set label=")
    return y


def picture_files(paths: Sequence[str], flow: Distribution) -> Tensor:
    """Pictures from files, cropped and resized to what the flow takes: uint8 (N, C, H, W)."""
    channels, height, width = flow.event_shape
    assert flow.grey_levels is not None
    if height != width or channels not in (1, 3):
        raise UsageError(
            f"pictures cannot be brought to the model's {flow.event_shape}: take dataset indices"
        )
    read_in = []
    for path in paths:
        try:
            read_in.append(read_picture(Path(path), height, channels))
        except Exception as error:  # PIL raises many kinds
            raise UsageError(f"images: {path} cannot be read ({error})") from error
    return (torch.stack(read_in).int() * flow.grey_levels // 256).to(torch.uint8)


def folder_pictures(folder: str, flow: Distribution, most: int) -> Tensor:
    """The first pictures below a folder."""
    if not Path(folder).is_dir():
        raise UsageError(f"groups: {folder} is not a folder")
    try:
        files = pictures_below(Path(folder))
    except UsageError as error:
        raise UsageError(f"groups: there are no pictures below {folder}") from error
    return picture_files([str(p) for p in files[:most]], flow)


def as_list(name: str, value: object) -> list[Any]:
    """A setting that is one value or a list of some."""
    values = list(value) if isinstance(value, ListConfig) else [value]
    if not values or value is None:
        raise UsageError(f"{name} needs at least one value, got {value}")
    return values


def check_path(name: str, value: object) -> None:
    """Raise ``UsageError`` unless ``value`` is a path or None."""
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} must be a path, got {value!r}")


def make_folder(folder: Path) -> Path:
    """The folder, made if need be; a ``UsageError`` if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error}): set out=") from error
    return folder


def check_index(name: str, index: object, n: int) -> int:
    """An index into ``n`` examples."""
    check_positive(name, index, integer=True, zero=True)
    assert isinstance(index, int)
    if index >= n:
        raise UsageError(f"{name} has {index}, but the split has {n} examples")
    return index
