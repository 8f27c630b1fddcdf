"""Maximum likelihood: a density learns data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glow.data.augment import random_shift
from glow.distributions.base import Distribution
from glow.errors import UsageError, check_positive
from glow.evaluation.bits import in_unit
from glow.training.module import Batch, DensityModule


class MaximumLikelihood(DensityModule):
    """The loss is bits/dim of grey images and signals (``bpd``), or the nats of vectors and binary images (``nll``).

    Args:
        flow: see ``DensityModule``.
        optimizer: see there.
        schedule: see there.
        shift: training images are shifted by up to this fraction of their size, in [0, 1).
        label_dropout: the share of training examples, in [0, 1], whose label a class-conditional flow is not told: it also
            learns the density without labels.
        model: see there.
        dataset: see there.
        seed: see there.

    Raises:
        UsageError: shift is out of range, or there is neither a flow nor a model.
    """

    def __init__(
        self,
        flow: Distribution | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., Any] | None = None,
        *,
        shift: float = 0.0,
        label_dropout: float = 0.1,
        model: dict[str, Any] | None = None,
        dataset: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(flow, optimizer, schedule, model=model, dataset=dataset, seed=seed)
        check_positive("objective.shift", shift, zero=True)
        if shift >= 1:
            raise UsageError(f"objective.shift must be below 1, the whole picture, got {shift}")
        check_positive("objective.label_dropout", label_dropout, zero=True)
        if label_dropout > 1:
            raise UsageError(f"objective.label_dropout must be in [0, 1], got {label_dropout}")
        self.save_hyperparameters("shift", "label_dropout")
        self.shift, self.label_dropout = shift, label_dropout
        self.unit = "bpd" if self.flow.in_bits else "nll"

    def loss(self, batch: Batch, noise: Tensor | None) -> Tensor:
        x, *labels = batch
        log_prob = self.flow(x, labels[0] if self.flow.conditional and labels else None, noise)
        return in_unit(-log_prob, self.flow)

    def augment(self, batch: Batch, uniform: Callable[[int], Tensor]) -> Batch:
        x, *labels = batch
        if self.shift and x.dim() == 4:
            x = random_shift(x, self.shift, uniform(2))
        if self.label_dropout and self.flow.classes and labels:
            labels = [labels[0].masked_fill(uniform(1)[:, 0] < self.label_dropout, -1)]
        return x, *labels
