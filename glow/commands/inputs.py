"""What ``sample`` and ``evaluate`` start from: a saved flow, its device, and data for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from glow.commands.cli import compose, explain
from glow.data import ArrayData, build_data
from glow.data.base import Arrays, Split
from glow.data.image_folder import pictures_below, read_picture
from glow.errors import UsageError, check_choice, check_positive, nearest
from glow.flow import Flow
from glow.saved import Saved, find, read


def open_saved(cfg: DictConfig) -> tuple[Saved, torch.device]:
    """The checkpoint that ``cfg.ckpt`` means, and the device that ``cfg.device`` does; says which."""
    if cfg.weights is not None:
        check_choice("weights", cfg.weights, ("ema", "raw"))
    saved, device = read(find(cfg.ckpt, cfg.output_dir)), choose_device(cfg.device)
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
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ["cpu", *([accelerator.type] if accelerator else [])]
        raise UsageError(f"device={name} is not here; there is {', '.join(have)}, and auto") from error
    return device


def dataset_config(overrides: Sequence[str], saved: Saved) -> dict[str, Any]:
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
        for change in OverridesParser.create().parse_overrides(changes):
            key = change.key_or_group.removeprefix("dataset.")
            if key not in config:
                raise UsageError(f"dataset.{key} is not a setting of {config['name']}{nearest(key, config)}")
            config[key] = change.value()
    if config.get("grey_levels") is not None:
        config["grey_levels"] = saved.model.get("grey_levels", config["grey_levels"])
    return config


def load_split(config: dict[str, Any], split: Split, flow: Flow, seed: int) -> tuple[ArrayData, Arrays]:
    """The data and one of its splits.

    Raises:
        UsageError: its examples do not fit the flow.
    """
    check_choice("split", split, ("train", "val", "test"))
    if "image_size" in config and len(flow.event_shape) == 3:  # pictures can be brought to any size
        channels, size, _ = flow.event_shape
        config = config | {"image_size": size, "channels": channels, "shape": list(flow.event_shape)}
    data = build_data(config, seed)
    if data.shape != flow.event_shape:
        raise UsageError(
            f"dataset={data.name} has examples of shape {data.shape}, but the model takes {flow.event_shape}"
        )
    data.prepare_data()
    data.setup("test" if split == "test" else "fit")
    return data, data.splits[split]


def labels_for(flow: Flow, y: Tensor | None, n: int, name: str) -> Tensor | None:
    """The labels (n,) that a class-conditional flow needs, None for any other."""
    if not flow.classes:
        return None
    if y is None:
        raise UsageError(f"the model is class-conditional and needs a label for {name}: set label=")
    return y.expand(n)


def picture_files(paths: Sequence[str], flow: Flow) -> Tensor:
    """Pictures from files, cropped and resized to what the flow takes: uint8 (N, C, H, W)."""
    channels, height, width = flow.event_shape
    assert flow.dequantize is not None
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
    return (torch.stack(read_in).int() * flow.dequantize.levels // 256).to(torch.uint8)


def folder_pictures(folder: str, flow: Flow, most: int) -> Tensor:
    """The first pictures below a folder."""
    if not Path(folder).is_dir():
        raise UsageError(f"groups: {folder} is not a folder")
    return picture_files([str(p) for p in pictures_below(Path(folder))[:most]], flow)


def check_index(name: str, index: object, n: int) -> int:
    """An index into ``n`` examples."""
    check_positive(name, index, integer=True, zero=True)
    assert isinstance(index, int)
    if index >= n:
        raise UsageError(f"{name} has {index}, but the split has {n} examples")
    return index
