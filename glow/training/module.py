"""The LightningModule: one for images and vectors."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics import MeanMetric

from glow.bijections.scales import Scales, RecordsScales
from glow.data.augment import random_shift
from glow.distributions.base import Distribution
from glow.distributions.plane import Checkerboard, NormalizedDensity, PlaneDensity, density
from glow.errors import NonFiniteError, UsageError, check_choice, check_positive
from glow.evaluation.bits import bits_per_dim, evaluation_noise
from glow.evaluation.reverse_kl import reverse_kl_report
from glow.flows import build
from glow.flows.flow import Flow
from glow.resilience.checkpoints import last_checkpoint
from glow.resilience.nonfinite import KINDS, Culprit, Part, bad_weight, find, what
from glow.seeds import generator
from glow.training.limits import time_used
from glow.training.optimizers import build_optimizer, build_schedule

OBJECTIVES = ("forward_kl", "reverse_kl")
"""What ``objective`` may be."""

ON_NONFINITE = ("stop", "skip")
"""What ``on_nonfinite`` may be."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


class FlowModule(L.LightningModule):
    """Training of a flow, or of another density.

    With the objective ``forward_kl``, maximum likelihood, the loss is bits/dim for grey images and nats for vectors and
    binary images (``unit`` is ``bpd`` or ``nll``). With ``reverse_kl`` the data counts only by its number: the flow's own
    samples x, as many as a batch has, are to follow the unnormalized density p of the dataset, and the loss is the mean of
    log q(x) - log p(x), the negative ELBO in nats (``nelbo``; Rezende & Mohamed 2015, section 4). The loss is logged as
    ``train/UNIT``, ``val/UNIT`` and ``test/UNIT``, means over all examples of the epoch, each counted once.

    All arguments are plain values that the checkpoint keeps, so that ``load_from_checkpoint`` needs no YAML.

    Args:
        model: the configuration of ``glow.flows.build``.
        optimizer: the configuration of ``glow.training.optimizers``.
        seed: decides dequantization noise and augmentation.
        shift: training images are shifted by up to this fraction of their size.
        dataset: the configuration of the data, kept for who opens the checkpoint later; for ``reverse_kl`` it names the
            density.
        objective: ``forward_kl`` or ``reverse_kl``.
        on_nonfinite: what a step whose loss or gradient is not finite comes to: ``stop`` ends training, ``skip`` leaves
            weights and the optimizer's state as they were and goes on. It counts as a step all the same. Weights that
            are not finite always end training.
        max_skipped: so many steps may be skipped in the whole run.
    """

    WEIGHTED = 2_000
    """Samples of the flow that every validation of reverse-KL training weighs."""

    def __init__(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any],
        seed: int = 0,
        shift: float = 0.0,
        dataset: dict[str, Any] | None = None,
        objective: str = "forward_kl",
        on_nonfinite: str = "stop",
        max_skipped: int = 10,
    ) -> None:
        super().__init__()
        check_choice("on_nonfinite", on_nonfinite, ON_NONFINITE)
        check_positive("max_skipped", max_skipped, integer=True, zero=True)
        check_positive("shift", shift, zero=True)
        if shift >= 1:
            raise UsageError(f"shift must be below 1, the whole picture, got {shift}")
        self.save_hyperparameters()
        self.optimizer_config, self.seed, self.shift = optimizer, seed, shift
        self.flow = build(model)
        self.target = _target_of(objective, self.flow, dataset)
        self.unit = "nelbo" if self.target else "nll" if self.flow.dequantize is None else "bpd"
        # torchmetrics would drop NaN from a mean, with a warning.
        self.train_mean, self.val_mean, self.test_mean = (
            MeanMetric(nan_strategy="disable") for _ in range(3)
        )
        self.train_mean.persistent(True)  # an epoch that is resumed keeps what it had
        self.test_name = "test"
        """What the next test's figures are logged under."""
        self.on_nonfinite, self.max_skipped = on_nonfinite, max_skipped
        self.skipped = 0
        """Steps that were left out because something was not finite."""
        self._trained = False
        self._parts: list[Part] = []

    def loss(self, batch: tuple[Tensor, ...], noise: Tensor | None) -> Tensor:
        """Bits/dim or nats of every example of a batch (x,) or (x, y): (B,). The noise is what ``noise`` gives."""
        if self.target is not None:
            assert isinstance(self.flow, Flow)
            assert noise is not None
            x, log_q = self.flow.generate_with_log_prob([noise])
            return log_q - self.target.log_prob(x)
        if self.flow.classes and len(batch) < 2:
            raise UsageError("model.class_conditional=true needs labels, and this data has none")
        y = batch[1] if self.flow.classes else None
        log_prob = self.flow(batch[0], y, noise)
        return bits_per_dim(log_prob, self.flow.event_shape) if self.unit == "bpd" else -log_prob

    def noise(self, n: int, source: torch.Generator) -> Tensor | None:
        """What the loss of ``n`` examples needs: noise of the log-density, or latents of the flow's own samples."""
        if self.target is not None:
            assert isinstance(self.flow, Flow)
            return self.flow.draw(n, generator=source)[0]
        return self.flow.noise(n, source)

    def on_train_start(self) -> None:
        """The mean so far that a checkpoint holds is that of the first device; no other may count it again."""
        self._parts = []
        if self.trainer.global_rank > 0:
            self.train_mean.reset()
        step = self.trainer.global_step
        same = self.trainer.strategy.broadcast(step) == step
        if not self.trainer.strategy.reduce_boolean_decision(same, all=True):
            raise UsageError(
                "the processes continue different checkpoints: is output_dir the same folder on every node?"
            )

    def on_train_epoch_start(self) -> None:
        """A new mean; not called when an epoch is resumed."""
        self.train_mean.reset()
        self._trained = False

    def on_train_epoch_end(self) -> None:
        """Log the mean over the epoch (once: handing the metric to Lightning in every step costs time)."""
        if (
            self._trained
        ):  # not so when a run is resumed at the end of an epoch, or all its steps were skipped
            self.log(f"train/{self.unit}", self.train_mean.compute())

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        values = self._training_loss(batch, batch_idx)
        loss = values.mean()
        self._parts.append(Part(batch, batch_idx, values.detach()))
        if self._logs_step:
            self.log(f"train/{self.unit}_step", loss.detach(), prog_bar=True, batch_size=len(batch[0]))
        # A factor of 1, or NaN: a loss that is not finite spoils all gradients, which the devices share, so that they
        # agree about the step without asking each other.
        return loss * (1 + 0 * loss.detach())

    def _training_loss(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        x = batch[0]
        # Drawn for the batch of all devices, of which this device takes its rows: the numbers that an
        # image meets do not depend on how many devices share the work (as long as they share it evenly).
        source = generator(x.device, "train", self.seed, self.current_epoch, batch_idx)
        devices, device = self.trainer.world_size, self.trainer.global_rank
        noise = self.noise(len(x) * devices, source)
        noise = None if noise is None else noise[device::devices]
        if self.shift and x.dim() == 4:
            offsets = torch.rand((len(x) * devices, 2), generator=source, device=x.device)[device::devices]
            x = random_shift(x, self.shift, offsets)
        return self.loss((x, *batch[1:]), noise)

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Collects the loss of every example under noise that is the same in every epoch."""
        self.val_mean.update(self.loss(batch, self._evaluation_noise(len(batch[0]), "val", batch_idx)))
        self.log(f"val/{self.unit}", self.val_mean, prog_bar=True, batch_size=len(batch[0]))

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """Collects the loss of every example under fixed noise."""
        self.test_mean.update(self.loss(batch, self._evaluation_noise(len(batch[0]), "test", batch_idx)))
        self.log(f"{self.test_name}/{self.unit}", self.test_mean, batch_size=len(batch[0]))
        examples = float(len(batch[0]))
        self.log(f"{self.test_name}/examples", examples, reduce_fx="sum", sync_dist=True, batch_size=1)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient norm; stop or skip before weights are touched by numbers that are not finite."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        parts, self._parts = self._parts, []
        if torch.isfinite(norm):
            self._count(parts)
            if self._logs_step:
                self.log("train/grad_norm", norm)
        else:
            self._not_finite(parts)
        if self._logs_step and self.on_nonfinite == "skip":
            self.log("train/skipped", float(self.skipped))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the number of skipped steps; refuse to replace a good checkpoint by weights that are not finite."""
        for state in ("current_model_state", "state_dict"):
            if weight := bad_weight(checkpoint.get(state, {})):
                self._stop(f"{weight.text} after step {self.trainer.global_step}", weight)
        checkpoint["skipped"] = self.skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The number of skipped steps."""
        self.skipped = checkpoint.get("skipped", 0)

    def on_validation_epoch_start(self) -> None:
        """Forget the scales of the last validation."""
        self._scales = Scales()
        for source in self._scale_sources():
            source.recorder = self._scales

    def on_validation_epoch_end(self) -> None:
        """Log the smallest coupling scale; stop if the validation loss is not finite."""
        for source in self._scale_sources():
            source.recorder = None
        smallest = self._scales.smallest
        if smallest is not None:
            self.log("val/smallest_scale", smallest, sync_dist=True, reduce_fx="min")
        if not self.trainer.sanity_checking and not torch.isfinite(self.val_mean.compute()):
            weight = bad_weight(self.named_parameters())
            self._stop(f"the validation loss is not finite after step {self.trainer.global_step}", weight)
        if self.target is not None:
            assert isinstance(self.flow, Flow)
            source = generator("cpu", "weights", self.seed)
            report = reverse_kl_report(self.flow, self.target, self.WEIGHTED, source)
            for name in ("elbo", "elbo_gap", "ess", "free_energy_estimate"):
                if report.get(name) is not None:
                    self.log(f"val/{name}", report[name], rank_zero_only=True)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The configured optimizer with a learning rate that changes per step."""
        optimizer = build_optimizer(self.parameters(), self.optimizer_config)
        total = float(self.trainer.estimated_stepping_batches)
        self.trainer.fit_loop.setup_data()  # which the estimate leaves out when only max_steps is set
        per_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        schedule = build_schedule(optimizer, self.optimizer_config, per_epoch, total, time_used(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def _logs_step(self) -> bool:
        """Whether Lightning writes this step's figures; the others need not be handed to it."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0

    def _evaluation_noise(self, n: int, split: str, batch_idx: int) -> Tensor | None:
        device = self.trainer.global_rank
        if self.target is not None:
            return self.noise(n, generator(self.flow.device, split, self.seed, batch_idx, device))
        return evaluation_noise(self.flow, n, split, self.seed, batch_idx, device_index=device)

    def _scale_sources(self) -> list[RecordsScales]:
        return [m for m in self.flow.modules() if isinstance(m, RecordsScales)]

    def _count(self, parts: list[Part]) -> None:
        """Take the losses of a step into the mean of the epoch, for which they have to be finite."""
        self.train_mean.update(torch.cat([part.values for part in parts]))
        self._trained = True

    def _not_finite(self, parts: list[Part]) -> None:
        """Skip the step, or stop. All devices come here together, and leave with the same decision."""
        finite = not any(what(part.values) for part in parts)
        finite = self.trainer.strategy.reduce_boolean_decision(finite, all=True)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if finite and scaler is not None and scaler.get_scale() > 1:
            # Half precision overflows now and then; its gradient scaler leaves such steps out and scales by less.
            self._count(parts)
            return
        step = self.trainer.global_step
        precision = self.trainer.precision_plugin.forward_context
        culprit = self._agreed(
            find(self, parts, lambda part: self._training_loss(part.batch, part.index), precision)
        )
        said = f"the {'gradient' if finite else 'loss'} is not finite at step {step}"
        if culprit.kind == "weight" or self.on_nonfinite == "stop":
            self._stop(said, culprit)
        if self.skipped >= self.max_skipped:
            self._stop(f"{said}, and {self.skipped} steps were skipped before (max_skipped)", culprit)
        self.skipped += 1
        for parameter in self.parameters():
            parameter.grad = None  # what has no gradient, an optimizer leaves alone
        rank_zero_warn(
            f"{said} and is skipped ({self.skipped} of at most {self.max_skipped}): {culprit.text}"
        )

    def _agreed(self, culprit: Culprit) -> Culprit:
        """The device's that is nearest to the cause."""
        devices = self.trainer.world_size
        if devices == 1:
            return culprit
        found: list[Any] = [None] * devices
        where = f" (device {self.trainer.global_rank})"
        torch.distributed.all_gather_object(found, (culprit.kind, culprit.text + where))
        return min((Culprit(*c) for c in found), key=lambda c: KINDS.index(c.kind))

    def _stop(self, what: str, culprit: Culprit | None = None) -> None:
        kept = last_checkpoint(self.trainer)
        advice = (
            "Lower optimizer.lr, lengthen optimizer.warmup_epochs, set trainer.gradient_clip_val or, for "
            "affine couplings, model.min_scale, and start over with resume=false"
        )
        if culprit is not None and culprit.kind == "batch":
            advice = "Mend the data, or leave out such steps with on_nonfinite=skip"
        raise NonFiniteError(
            f"{what}{f': {culprit.text}' if culprit and culprit.text not in what else ''}; "
            f"{f'the last checkpoint is {kept}' if kept else 'there is no checkpoint yet'}. {advice}"
        )


def _target_of(objective: str, flow: Distribution, dataset: dict[str, Any] | None) -> PlaneDensity | None:
    """The density that a reverse-KL run approximates; None for other objectives."""
    check_choice("objective", objective, OBJECTIVES)
    if objective != "reverse_kl":
        return None
    if dataset is None or dataset.get("_target_") != "glow.data.Toy":
        raise UsageError("objective=reverse_kl needs a density: choose one of the datasets in the plane")
    if not isinstance(flow, Flow) or not flow.base.reparametrized:
        raise UsageError(
            "objective=reverse_kl needs a flow whose samples are differentiable: neither model=made nor model.base=mixture"
        )
    found = density(dataset["kind"], dataset["noise"])
    if isinstance(found, Checkerboard) or (isinstance(found, NormalizedDensity) and not found.is_density):
        raise UsageError(
            "objective=reverse_kl needs a density that is nowhere zero: a noise, and no checkerboard"
        )
    return found
