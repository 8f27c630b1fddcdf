"""Data-dependent initialization at the start of a run."""

from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from glow.errors import NonFiniteError, UsageError, check_positive
from glow.resilience.nonfinite_source import in_batch, in_weights
from glow.seeds import generator
from glow.training.module import DensityModule


class Initialize(L.Callback):
    """Initialize the flow from one batch, before any distributed wrapping and before the copy of ``EMA``.

    It runs in ``setup``, which Lightning calls before it wraps the model, on a batch that the seed alone chooses, so that
    all devices compute the same. A flow that is initialized is left alone, and so is one whose weights come from
    ``trainer.ckpt_path``. (``trainer.fit(ckpt_path=...)`` sets that later: the weights of the checkpoint then replace
    those computed here.)

    Args:
        images: size of the batch; the paper's code uses at least 256 for a real model.
    """

    def __init__(self, images: int = 256) -> None:
        check_positive("callbacks.initialize.images", images, integer=True)
        self.images = images

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, DensityModule)
        flow = pl_module.flow
        if stage != "fit" or flow.initialized or trainer.ckpt_path is not None:
            return
        device = trainer.strategy.root_device
        pl_module.to(device)
        x, y = initialization_batch(trainer, self.images, pl_module.seed)
        noise = flow.noise(len(x), generator("cpu", "initialization noise", pl_module.seed))
        noise = None if noise is None else noise.to(device)
        labels = y.to(device) if y is not None and flow.conditional else None
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        counts = data.grey_level_counts() if hasattr(data, "grey_level_counts") else None
        flow.initialize(x.to(device), labels, noise, counts)
        if weight := in_weights(flow.named_parameters()):
            source = in_batch((x,), "the batch that the flow is initialized from") or weight
            raise NonFiniteError(f"the flow cannot be initialized: {source.text}")


def initialization_batch(trainer: L.Trainer, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """``n`` training examples (n, ...) and their labels (n,), if there are any; the same on all devices.

    They are the data module's own ``initialization_batch(n)``, or the first ones of its ``train_dataloader()``.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        raise UsageError(
            "the flow is initialized from a LightningDataModule: trainer.fit(module, datamodule)"
        )
    if hasattr(data, "initialization_batch"):
        return data.initialization_batch(n)
    return first_examples(data.train_dataloader(), n, seed)


def first_examples(
    loader: Iterable[tuple[Tensor, ...] | list[Tensor]], n: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """The first ``n`` examples (or all, if fewer) of batches (x,) or (x, y), without touching global random numbers."""
    batches: list[Any] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed is also of the devices
        for batch in loader:
            batches.append(batch)
            if sum(len(x) for x, *_ in batches) >= n:
                break
    x, *labels = (torch.cat(parts)[:n] for parts in zip(*batches, strict=True))
    return x, labels[0] if labels else None
