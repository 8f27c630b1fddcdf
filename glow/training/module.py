"""What training with Lightning has in common, whatever the objective."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from glow.bijections.scales import add_scales
from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.evaluation.bits import evaluation_generator
from glow.flows import build
from glow.resilience.lightning_internals import logs_this_step
from glow.seeds import generator
from glow.training.graphs import ReplayedSteps, replayed_loss
from glow.training.muon import optimizer_of
from glow.training.replay import Replays
from glow.training.schedules import scheduled

Batch = tuple[Tensor, ...]
"""A batch (x,) or (x, y): examples (B, ...) and labels (B,), or observations (B, K)."""


class DensityModule(L.LightningModule, ABC):
    """What all objectives share: noise, means over epochs, optimizer and schedule.

    A subclass has a ``loss`` and its ``unit``. The loss is logged as ``train/UNIT``, ``val/UNIT`` and ``test/UNIT``: means
    over all examples of an epoch, each counted once; in training over those whose loss is finite.

    A checkpoint keeps ``model``, ``dataset`` and ``seed``, so ``load_from_checkpoint(path)`` needs no YAML. It builds
    recipes of ``glow.flows`` only; a flow of your own class is given: ``load_from_checkpoint(path, flow=flow)``.

    Args:
        flow: what is trained; None for ``glow.flows.build(model)``.
        optimizer: makes an optimizer of the parameters, such as ``functools.partial(torch.optim.Adamax, lr=1e-3)``, and of
            ``matrices`` (see ``glow.training.muon``) where its signature names these. Only ``fit`` needs it.
        schedule: makes a learning-rate schedule of the optimizer, see ``glow.training.schedules.scheduled``; None for a
            constant rate.
        model: plain values, the configuration of ``glow.flows.build``.
        dataset: plain values, the configuration of the data; kept for whoever opens the checkpoint.
        seed: decides dequantization noise and augmentation.
    """

    unit: str
    """``bpd``, ``nll`` or ``nelbo``: what the loss is measured in, see ``glow.evaluation.bits.UNITS``."""

    def __init__(
        self,
        flow: Distribution | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., Any] | None = None,
        *,
        model: dict[str, Any] | None = None,
        dataset: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters("model", "dataset", "seed")
        if flow is None and model is None:
            raise UsageError(f"{type(self).__name__} needs a flow, or the configuration of one as model")
        self.flow = build(model or {}) if flow is None else flow
        self.optimizer, self.schedule, self.seed = optimizer, schedule, seed
        # torchmetrics would drop NaN from a mean, with a warning.
        self.train_mean, self.val_mean, self.test_mean = (
            MeanMetric(nan_strategy="disable") for _ in range(3)
        )
        self.train_mean.persistent(True)  # a resumed epoch keeps what it had
        self.test_name = "test"
        """What the next test's figures are logged under."""
        self.losses = torch.empty(0)
        """The losses (B,) of the last training batch, detached."""
        self.graphs = False
        """Whether training steps, validation and test are replayed as CUDA graphs, where they can be; see ``glow.training.graphs``."""
        self.replayed: ReplayedSteps | None = None
        """The steps of such a ``fit``."""
        self.replayed_loss: Replays | None = None
        """The loss in such a validation or test."""
        self._epoch_has_losses = False

    @abstractmethod
    def loss(self, batch: Batch, noise: Tensor | None) -> Tensor:
        """The loss of every example of a batch: (B,). ``noise`` is what ``noise(B)`` gives."""

    def noise(self, n: int, source: torch.Generator) -> Tensor | None:
        """The random numbers that the loss of ``n`` examples needs, one row each; None if it needs none."""
        return self.flow.noise(n, source)

    def augment(self, batch: Batch, uniform: Callable[[int], Tensor]) -> Batch:
        """A training batch, changed at random; ``uniform(k)`` gives k numbers in [0, 1) for every example: (B, k)."""
        return batch

    def training_losses(self, batch: Batch, batch_idx: int) -> Tensor:
        """The losses (B,) of a training batch; the same random numbers whenever it is called in the same epoch."""
        return self.loss(*self.prepared(batch, batch_idx))

    def prepared(self, batch: Batch, batch_idx: int) -> tuple[Batch, Tensor | None]:
        """A training batch as ``loss`` takes it, augmented, and its noise."""
        # Drawn for the global batch, of which this device takes its rows: the numbers that an example meets do not depend
        # on how many devices share the work (as long as they share it evenly).
        source = generator(batch[0].device, "train", self.seed, self.current_epoch, batch_idx)
        devices, device = self.trainer.world_size, self.trainer.global_rank
        n, where = len(batch[0]) * devices, batch[0].device
        noise = self.noise(n, source)
        noise = None if noise is None else noise[device::devices]
        batch = self.augment(
            batch, lambda k: torch.rand((n, k), generator=source, device=where)[device::devices]
        )
        return batch, noise

    def on_train_start(self) -> None:
        self.replayed = ReplayedSteps.of(self.trainer, self) if self.graphs else None
        # The mean in a checkpoint is that of all devices; only the first may count it.
        if self.trainer.global_rank > 0:
            self.train_mean.reset()

    def on_train_end(self) -> None:
        self.replayed = None  # which keeps the memory of its graphs

    def on_validation_start(self) -> None:
        self.replayed_loss = replayed_loss(self.trainer, self) if self.graphs else None

    def on_validation_end(self) -> None:
        self.replayed_loss = None

    on_test_start, on_test_end = on_validation_start, on_validation_end

    def on_train_epoch_start(self) -> None:  # not called when an epoch is resumed
        self.train_mean.reset()
        self._epoch_has_losses = False

    def on_train_epoch_end(self) -> None:
        if self._epoch_has_losses:  # not so if a run was resumed at the end of this epoch
            self.log(f"train/{self.unit}", self.train_mean.compute())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.replayed is None:
            losses = self.training_losses(batch, batch_idx)
        else:
            losses = self.replayed(*self.prepared(batch, batch_idx)).losses
        loss = losses.mean()
        self.losses = losses.detach()
        finite = self.losses.isfinite()
        self.train_mean.update(self.losses.where(finite, 0), finite)
        self._epoch_has_losses = True
        if logs_this_step(self.trainer):
            self.log(f"train/{self.unit}_step", loss.detach(), prog_bar=True, batch_size=len(losses))
            self.log_dict({f"train/{name}": value for name, value in self.flow.figures().items()})
            if self.replayed is not None and self.replayed.last is not None:
                self.log("train/grad_norm", self.replayed.last.norm)
        # 1, or NaN for a non-finite loss: the gradient all-reduce then shows it to every device.
        return loss * (1 + 0 * loss.detach())

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.replayed is None:  # or else the step is done
            super().backward(loss, *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        if self.replayed is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()  # the training step, which updates

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if logs_this_step(self.trainer):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            if gradients:  # NonFiniteGuard takes those of a skipped step away
                self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_mean.update(self._evaluation_losses(batch, "val", batch_idx))
        self.log(f"val/{self.unit}", self.val_mean, prog_bar=True, batch_size=len(batch[0]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_mean.update(self._evaluation_losses(batch, "test", batch_idx))
        self.log(f"{self.test_name}/{self.unit}", self.test_mean, batch_size=len(batch[0]))
        examples = float(len(batch[0]))
        self.log(f"{self.test_name}/examples", examples, reduce_fx="sum", sync_dist=True, batch_size=1)

    def _evaluation_losses(self, batch: Batch, split: str, batch_idx: int) -> Tensor:
        """The losses (B,) under noise that is the same in every epoch, and in ``evaluate_log_probs``."""
        device_index = self.trainer.global_rank
        source = evaluation_generator(self.flow, split, self.seed, batch_idx, device_index=device_index)
        noise = self.noise(len(batch[0]), source)
        if self.replayed_loss is None:
            return self.loss(batch, noise)
        losses, *extremes = self.replayed_loss(noise, *batch)
        if extremes:
            add_scales(self.flow, *extremes)
        return losses

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig | torch.optim.Optimizer:
        if self.optimizer is None:
            raise UsageError(f"{type(self).__name__} needs an optimizer for training: optimizer=...")
        optimizer = optimizer_of(self, self.optimizer)
        if self.schedule is None:
            return optimizer
        return scheduled(self.trainer, optimizer, self.schedule, monitor=f"val/{self.unit}")
