"""Data-dependent initialization at the start of a run."""

from __future__ import annotations

import lightning as L

from glow.data import ArrayData
from glow.errors import NonFiniteError, check_positive
from glow.resilience.nonfinite import bad_batch, bad_weight
from glow.seeds import generator
from glow.training.module import FlowModule


class Initialize(L.Callback):
    """Initialize the flow from one batch: before any distributed wrapping, and before the EMA copy.

    It runs in ``setup``, which Lightning calls before it loads a checkpoint and before it wraps the
    model, on a batch that the seed alone chooses, so that all devices compute the same. A flow that is
    initialized, as that of a resumed run, is left alone. Must come before ``EMA`` in the list of callbacks.

    Args:
        images: size of the batch; the paper's code uses at least 256 for a real model.
    """

    def __init__(self, images: int = 256) -> None:
        check_positive("callbacks.initialize.images", images, integer=True)
        self.images = images

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Initialize, unless that was done."""
        assert isinstance(pl_module, FlowModule)
        flow = pl_module.flow
        if stage != "fit" or flow.initialized:
            return
        if pl_module.target is not None:  # whose samples nobody has: the flow starts from its base
            flow.initialized = True
            return
        assert isinstance(trainer.datamodule, ArrayData)  # type: ignore[attr-defined]
        device = trainer.strategy.root_device
        pl_module.to(device)
        x, y = trainer.datamodule.initialization_batch(self.images)  # type: ignore[attr-defined]
        source = generator("cpu", "initialization noise", pl_module.seed)
        noise = flow.noise(len(x), source)
        noise = None if noise is None else noise.to(device)
        flow.initialize(x.to(device), y.to(device) if y is not None and flow.classes else None, noise)
        if weight := bad_weight(flow.named_parameters()):
            culprit = bad_batch((x,), "the batch that the flow is initialized from") or weight
            raise NonFiniteError(f"the flow cannot be initialized: {culprit.text}")
