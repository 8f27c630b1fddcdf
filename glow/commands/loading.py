"""From the configuration of some data to the examples of one of its splits."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from glow.checkpoint import Classes
from glow.commands.sources import Source
from glow.distributions.base import Distribution
from glow.errors import UsageError

SPLITS = ("train", "val", "test", "all")


class Loaded(NamedTuple):
    """Examples of a split, and the data module that they are from."""

    module: Any
    label: str
    split: str
    x: Tensor
    """uint8 (N, C, H, W), or floats (N, D)."""
    y: Tensor | None
    """Labels (N,), if there are any."""

    def first(self, n: int | None) -> "Loaded":
        """The first ``n`` examples; None for all."""
        return self._replace(x=self.x[:n], y=None if self.y is None else self.y[:n])


def open_data(source: Source, flow: Distribution, seed: int, classes: Classes) -> Any:
    """The data module of a configuration.

    Raises:
        UsageError: a setting that it refuses, or its examples would not fit the flow.
    """
    from glow.data import build_data  # slow to import

    config = source.config
    if "image_size" in config and len(flow.event_shape) == 3:  # pictures can be brought to any size
        channels, size, _ = flow.event_shape
        config = config | {"image_size": size, "channels": channels, "shape": list(flow.event_shape)}
    _check_shape(source, config.get("shape", flow.event_shape), flow)
    try:
        data = build_data(config, seed, classes=classes)
    except TypeError as error:  # an argument too few or too many
        raise UsageError(f"dataset={source.label}: {error}") from error
    if source.typed:
        data.prepare_data()  # downloads, and keeps decoded pictures
    return data


def load(data: Any, source: Source, split: str, flow: Distribution) -> Loaded:
    """One of the splits of a data module, or ``all`` of them.

    Raises:
        UsageError: there is no such data, or its examples do not fit the flow.
    """
    splits = ("train", "val", "test") if split == "all" else (split,)
    try:
        for stage in ("fit", "test") if split == "all" else ("test" if split == "test" else "fit",):
            data.setup(stage)
        parts = [_examples(data, s) for s in splits]
    except (OSError, RuntimeError, ValueError) as error:
        if source.typed or isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{source.label}, which the model was trained on, is not in {source.config.get('root')} ({error}): set "
            "dataset.root=DIR, where it may be downloaded, or another dataset="
        ) from error
    xs, ys = zip(*parts, strict=True)
    x, y = torch.cat(xs), torch.cat(ys) if all(y is not None for y in ys) else None
    _check_shape(source, x.shape[1:], flow)
    return Loaded(data, source.label, split, x, y)


def _check_shape(source: Source, shape: Any, flow: Distribution) -> None:
    if tuple(shape) != flow.event_shape:
        raise UsageError(
            f"dataset={source.label} has examples of shape {tuple(shape)}, but the model takes {flow.event_shape}"
        )


def _examples(data: Any, split: str) -> tuple[Tensor, Tensor | None]:
    if hasattr(data, "examples"):  # ours, in memory
        x, y = data.examples[split].arrays()
        return x, y
    batches = [b if isinstance(b, (tuple, list)) else (b,) for b in getattr(data, f"{split}_dataloader")()]
    columns = [torch.cat(column) for column in zip(*batches, strict=True)]
    return columns[0], columns[1] if len(columns) > 1 else None
