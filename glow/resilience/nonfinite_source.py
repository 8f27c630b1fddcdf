"""Where the first NaN or infinity of a training step is: in weights, batches, layers or gradients."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn

from glow.fused import unfused

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
