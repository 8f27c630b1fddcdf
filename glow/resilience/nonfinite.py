"""NaN and infinity in a training step: stop or skip, and say where they came from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from glow.errors import NonFiniteError, check_choice, check_positive
from glow.fused import unfused
from glow.resilience.checkpoints import last_checkpoint
from glow.resilience.lightning_internals import logs_this_step

Kind = Literal["weight", "batch", "output", "loss", "gradient"]
KINDS: tuple[Kind, ...] = ("weight", "batch", "output", "loss", "gradient")
"""What can hold the first non-finite value; each kind can cause those after it."""


class NonFiniteSource(NamedTuple):
    """Where the first non-finite value is: its kind, and a phrase for the message."""

    kind: Kind
    text: str


@dataclass
class MicroBatch:
    """One of the batches of an optimizer step: its tensors, its index in the epoch, its losses (B,), detached."""

    batch: Sequence[Tensor]
    index: int
    losses: Tensor


class NonFiniteGuard(L.Callback):
    """Keep steps whose loss or gradient is not finite away from the weights, and non-finite weights out of checkpoints.

    ``module.losses`` are the losses (B,) of the last batch, and ``module.training_losses(batch, batch_idx)`` computes them
    again from the same random numbers; of a module without them the loss is that of the whole batch, and
    ``training_step`` is repeated. A non-finite validation loss always stops training.

    Args:
        action: ``stop`` ends training with a ``NonFiniteError``; ``skip`` leaves weights and the optimizer's state as they
            are and goes on, which still counts as a step. Non-finite weights always end training.
        max_skipped: how many steps may be skipped in the whole run.
    """

    def __init__(self, action: str = "stop", max_skipped: int = 10) -> None:
        check_choice("resilience.callbacks.nonfinite.action", action, ("stop", "skip"))
        check_positive("resilience.callbacks.nonfinite.max_skipped", max_skipped, integer=True, zero=True)
        self.action, self.max_skipped = action, max_skipped
        self.skipped = 0
        """Steps skipped so far, those of the runs that this one continues included."""
        self._batch: tuple[Any, int] = ((), 0)
        self._micro_batches: list[MicroBatch] = []

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

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
            self._handle(trainer, pl_module, micro_batches)
        if self.action == "skip" and logs_this_step(trainer):
            pl_module.log("train/skipped", float(self.skipped))

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        loss = trainer.callback_metrics.get(f"val/{getattr(pl_module, 'unit', None)}")
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and loss is not None and not torch.isfinite(loss):
            message = f"the validation loss is not finite after step {trainer.global_step}"
            self._stop(trainer, message, in_weights(pl_module.named_parameters()))

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        for state in ("current_model_state", "state_dict"):  # the raw weights first: they spoil their average
            if source := in_weights(checkpoint.get(state, {})):
                self._stop(trainer, f"{source.text} after step {trainer.global_step}", source)

    def _handle(self, trainer: L.Trainer, module: Any, micro_batches: list[MicroBatch]) -> None:
        """Skip the step, or stop. All devices come here together, since they share gradients, and decide alike."""
        finite = not any(non_finite_kind(m.losses) for m in micro_batches)
        finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if finite and scaler is not None and scaler.get_scale() > 1:
            return  # half precision overflows now and then; its gradient scaler skips the step and lowers its factor
        repeat = getattr(module, "training_losses", module.training_step)
        precision = trainer.precision_plugin.forward_context
        source = find_source(module, micro_batches, lambda m: repeat(m.batch, m.index), precision)
        source = agree_on_source(trainer, source)
        message = f"the {'gradient' if finite else 'loss'} is not finite at step {trainer.global_step}"
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


def non_finite_kind(values: Tensor) -> str | None:
    """``nan`` or ``inf`` if one of the values is; None if all are finite."""
    if not values.is_floating_point() or bool(values.isfinite().all()):
        return None
    return "nan" if bool(values.isnan().any()) else "inf"


def in_weights(tensors: Mapping[str, object] | Iterable[tuple[str, object]]) -> NonFiniteSource | None:
    """The first of named weights or buffers that is not finite, with the index of its first such element."""
    for name, value in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if isinstance(value, Tensor) and (kind := non_finite_kind(value)):
            where = f" at {(~value.isfinite()).nonzero()[0].tolist()}" if value.dim() else ""
            return NonFiniteSource("weight", f"weight {name} holds {kind}{where}")
    return None


def in_batch(batch: Sequence[Tensor], name: str = "the batch") -> NonFiniteSource | None:
    """The first example of a batch, counted from 0, that is not finite."""
    for values in batch:
        if kind := non_finite_kind(values):
            bad = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
            where = f"example {int(bad.nonzero()[0])} of {len(values)} (from 0)"
            return NonFiniteSource("batch", f"{name} holds {kind} in {where}: the data is at fault")
    return None


def find_source(
    module: nn.Module,
    micro_batches: Sequence[MicroBatch],
    forward: Callable[[MicroBatch], object],
    precision: Callable[[], AbstractContextManager[object]],
) -> NonFiniteSource:
    """Where the first non-finite value is, after a step whose loss or gradient was not finite.

    The weights and the batches are examined first; then the forward pass is repeated, layer by layer, on the batches whose
    loss was not finite; then the gradients are examined.

    Args:
        module: whose parameters have the step's gradients.
        micro_batches: the batches of the step.
        forward: computes the losses of a batch again, from the same noise.
        precision: the context in which the step was computed.
    """
    if source := in_weights([*module.named_parameters(), *module.named_buffers()]):
        return source
    for m in micro_batches:
        if source := in_batch(m.batch, f"batch {m.index} of the epoch"):
            return source
    for m in micro_batches:
        if non_finite_kind(m.losses) is None:
            continue
        with torch.no_grad(), precision():
            if source := in_layers(module, lambda m=m: forward(m)):  # type: ignore[misc]
                return source
        row = int((~m.losses.isfinite()).nonzero()[0])
        where = f"example {row} of {len(m.losses)} (from 0) in batch {m.index} of the epoch"
        return NonFiniteSource("loss", f"that of {where}")
    return in_gradients(module)


class _Found(Exception):
    pass


def in_layers(module: nn.Module, forward: Callable[[], object]) -> NonFiniteSource | None:
    """The first layer in the order of computation whose output is not finite."""
    calls: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, inputs: object, output: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            if any(non_finite_kind(t) for t in _tensors(output)):
                again = f" (call {calls[name]})" if calls[name] > 1 else ""
                raise _Found(f"the output of {name}{again} is not finite")

        return look

    # Steps with stacked parameters share one module: the number of the call is that of the step.
    handles = [m.register_forward_hook(watch(name)) for name, m in module.named_modules() if name]
    try:
        with unfused(module):
            forward()
    except _Found as found:
        return NonFiniteSource("output", str(found))
    finally:
        for handle in handles:
            handle.remove()
    return None


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (tuple, list)) else []


def in_gradients(module: nn.Module) -> NonFiniteSource:
    """The last parameter whose gradient is not finite: back-propagation starts at the end and passes the value on."""
    gradients = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    bad = [(name, kind) for name, g in gradients if (kind := non_finite_kind(g))]
    if bad:
        others = f", and {len(bad) - 1} others" if len(bad) > 1 else ""
        return NonFiniteSource("gradient", f"that of {bad[-1][0]} holds {bad[-1][1]}{others}")
    largest = max(gradients, key=lambda g: float(g[1].abs().max()))[0]
    return NonFiniteSource("gradient", f"its norm overflows, and that of {largest} has the largest element")


def agree_on_source(trainer: L.Trainer, source: NonFiniteSource) -> NonFiniteSource:
    """Of the sources that the devices found, the one nearest to the cause."""
    if trainer.world_size == 1:
        return source
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, (source.kind, f"{source.text} (device {trainer.global_rank})"))
    return min((NonFiniteSource(*c) for c in found), key=lambda c: KINDS.index(c.kind))
