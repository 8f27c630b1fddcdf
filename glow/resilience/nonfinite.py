"""Training steps that are not finite: stop or skip."""

from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from glow.errors import NonFiniteError, check_choice, check_positive
from glow.resilience.checkpoints import last_checkpoint
from glow.resilience.lightning_internals import logs_this_step
from glow.resilience.nonfinite_source import (
    MicroBatch,
    NonFiniteSource,
    agree_on_source,
    find_source,
    in_weights,
    non_finite_kind,
)


class NonFiniteGuard(L.Callback):
    """Keep steps whose loss or gradient is not finite away from the weights, and non-finite weights out of checkpoints.

    ``module.losses`` are the losses (B,) of the last batch, and ``module.training_losses(batch, batch_idx)`` computes them
    again from the same random numbers; of a module without them the loss is that of the whole batch, and
    ``training_step`` is repeated. A non-finite validation loss always stops training.

    Where ``module.replayed`` are the steps of CUDA graphs, the device leaves weights and optimizer as they are, and whether a step
    was finite is read when figures are logged, after an epoch, and before a checkpoint. ``stop`` loses the steps in between.

    Args:
        action: ``stop`` ends training with a ``NonFiniteError``; ``skip`` leaves weights and the optimizer's state as they
            are and goes on, which still counts as a step. Non-finite weights always end training.
        max_skipped: how many steps may be skipped in the whole run.
    """

    UNREAD = 100
    """Of so many steps at most, the batches are kept to find out what was wrong."""

    def __init__(self, action: str = "stop", max_skipped: int = 10) -> None:
        check_choice("resilience.callbacks.nonfinite.action", action, ("stop", "skip"))
        check_positive("resilience.callbacks.nonfinite.max_skipped", max_skipped, integer=True, zero=True)
        self.action, self.max_skipped = action, max_skipped
        self.skipped = 0
        """Steps skipped so far, those of the runs that this one continues included."""
        self._batch: tuple[Any, int] = ((), 0)
        self._micro_batches: list[MicroBatch] = []
        self._unread: list[tuple[int, list[MicroBatch], Tensor]] = []
        """Steps of graphs: number, batches, and whether they were finite, which is on the device."""

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped + sum(not finite for *_, finite in self._unread)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._micro_batches = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch, batch_idx

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        losses = getattr(pl_module, "losses", loss.detach().reshape(1))
        self._micro_batches.append(MicroBatch(*self._batch, losses))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        micro_batches, self._micro_batches = self._micro_batches, []
        if not torch.isfinite(norm):
            self._handle(trainer, pl_module, micro_batches, trainer.global_step)
        self._log(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        if (replayed := getattr(pl_module, "replayed", None)) is None:
            return
        self._unread.append((trainer.global_step - 1, self._micro_batches, replayed.last.finite))
        self._micro_batches = []
        # The last steps of a run that ends within an epoch, too: afterwards the epoch's random numbers are over.
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps or trainer.is_last_batch
        if logs_this_step(trainer) or ends or len(self._unread) >= self.UNREAD:
            self._read(trainer, pl_module)
        self._log(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._read(trainer, pl_module)

    def _log(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.action == "skip" and logs_this_step(trainer):
            module.log("train/skipped", float(self.skipped))

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        loss = trainer.callback_metrics.get(f"val/{getattr(pl_module, 'unit', None)}")
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and loss is not None and not torch.isfinite(loss):
            message = f"the validation loss is not finite after step {trainer.global_step}"
            self._stop(trainer, message, in_weights(pl_module.named_parameters()))

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._read(trainer, pl_module)
        for state in ("current_model_state", "state_dict"):  # the raw weights first: they spoil their average
            if source := in_weights(checkpoint.get(state, {})):
                self._stop(trainer, f"{source.text} after step {trainer.global_step}", source)

    def _read(self, trainer: L.Trainer, module: Any) -> None:
        """Ask the device which of the last steps were not finite; it has not made them."""
        unread, self._unread = self._unread, []
        finite = torch.stack([step[2] for step in unread]).tolist() if unread else []
        for (number, micro_batches, _), good in zip(unread, finite, strict=True):
            if not good:
                self._handle(trainer, module, micro_batches, number, late=True)

    def _handle(
        self, trainer: L.Trainer, module: Any, micro_batches: list[MicroBatch], step: int, late: bool = False
    ) -> None:
        """Skip the step, or stop. All devices come here together, since they share gradients, and decide alike."""
        finite = not any(non_finite_kind(m.losses) for m in micro_batches)
        finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if finite and scaler is not None and scaler.get_scale() > 1:
            return  # half precision overflows now and then; its gradient scaler skips the step and lowers its factor
        repeat = getattr(module, "training_losses", module.training_step)
        precision = trainer.precision_plugin.forward_context
        if late and self._is_finite_now(module, micro_batches, repeat, precision):
            source = NonFiniteSource(
                "gradient", f"it is finite with the weights after step {trainer.global_step}"
            )
        else:
            source = find_source(module, micro_batches, lambda m: repeat(m.batch, m.index), precision)
        source = agree_on_source(trainer, source)
        message = f"the {'gradient' if finite else 'loss'} is not finite at step {step}"
        if source.kind == "weight" or self.action == "stop":
            self._stop(trainer, message, source)
        if self.skipped >= self.max_skipped:
            message += f", and {self.skipped} steps were skipped before (max_skipped)"
            self._stop(trainer, message, source)
        self.skipped += 1
        for parameter in module.parameters():
            parameter.grad = None  # an optimizer leaves parameters without a gradient alone
        rank_zero_warn(
            f"{message} and is skipped ({self.skipped} of at most {self.max_skipped}): {source.text}"
        )

    @staticmethod
    def _is_finite_now(module: Any, micro_batches: list[MicroBatch], repeat: Any, precision: Any) -> bool:
        """Make the gradients of a step again, of which nothing is left; after ``skip``, with the weights of later steps."""
        module.zero_grad()
        for m in micro_batches:
            with torch.enable_grad(), precision():
                loss = repeat(m.batch, m.index).mean()
            (loss * (1 + 0 * loss.detach())).backward()  # a loss that is not finite shows in the gradients
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        return bool(torch.nn.utils.get_total_norm(gradients).isfinite())

    @staticmethod
    def _stop(trainer: L.Trainer, message: str, source: NonFiniteSource | None) -> NoReturn:
        kept = last_checkpoint(trainer)
        advice = (
            "Lower optimizer.lr, lengthen schedule.warmup_epochs, set fit.gradient_clip_val or, for "
            "affine couplings, model.min_scale, and start over with resume=false"
        )
        if source is not None and source.kind == "batch":
            advice = "Mend the data, or skip such steps with resilience.callbacks.nonfinite.action=skip"
        raise NonFiniteError(
            f"{message}{f': {source.text}' if source and source.text not in message else ''}; "
            f"{f'the last checkpoint is {kept}' if kept else 'there is no checkpoint yet'}. {advice}"
        )
