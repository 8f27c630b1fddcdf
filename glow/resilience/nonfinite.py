"""Who brought NaN or infinity into a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from glow.fused import unfused

Kind = Literal["weight", "batch", "output", "loss", "gradient"]
KINDS: tuple[Kind, ...] = ("weight", "batch", "output", "loss", "gradient")
"""What can hold the first number that is not finite, what causes the others first."""


class Culprit(NamedTuple):
    """What holds it: its kind, and a clause that names it."""

    kind: Kind
    text: str


@dataclass
class Part:
    """One of the batches of an optimizer step.

    Attributes:
        batch: the tensors.
        index: of the batch in its epoch.
        values: the loss of every example (B,), detached.
    """

    batch: tuple[Tensor, ...]
    index: int
    values: Tensor


def what(values: Tensor) -> str | None:
    """``nan`` or ``inf`` if one of the values is; None if all are finite."""
    if not values.is_floating_point() or bool(values.isfinite().all()):
        return None
    return "nan" if bool(values.isnan().any()) else "inf"


def bad_weight(tensors: Mapping[str, object] | Iterable[tuple[str, object]]) -> Culprit | None:
    """The first of named weights or buffers that is not finite, with the index of its first such element."""
    for name, value in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if isinstance(value, Tensor) and (found := what(value)):
            where = f" at {(~value.isfinite()).nonzero()[0].tolist()}" if value.dim() else ""
            return Culprit("weight", f"weight {name} holds {found}{where}")
    return None


def bad_batch(batch: Sequence[Tensor], name: str = "the batch") -> Culprit | None:
    """The first example, counted from 0, that is not finite."""
    for values in batch:
        if found := what(values):
            bad = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
            row = int(bad.nonzero()[0])
            return Culprit(
                "batch",
                f"{name} holds {found} in example {row} of {len(values)} (from 0): the data is at fault",
            )
    return None


def find(
    module: nn.Module,
    parts: Sequence[Part],
    forward: Callable[[Part], object],
    precision: Callable[[], AbstractContextManager[object]],
) -> Culprit:
    """What holds the first number that is not finite, after a step whose loss or gradient was not.

    The weights and the batches are looked at; then the forward pass is repeated, layer by layer, on the batches
    whose loss was not finite; then the gradients are looked at.

    Args:
        module: whose parameters have the step's gradients.
        parts: the batches of the step.
        forward: computes the loss of a part again, from the same noise.
        precision: the context that the step was computed in.
    """
    if weight := bad_weight([*module.named_parameters(), *module.named_buffers()]):
        return weight
    for part in parts:
        if batch := bad_batch(part.batch, f"batch {part.index} of the epoch"):
            return batch
    for part in parts:
        if what(part.values) is None:
            continue
        with torch.no_grad(), precision():
            if layer := _bad_layer(module, lambda part=part: forward(part)):  # type: ignore[misc]
                return layer
        row = int((~part.values.isfinite()).nonzero()[0])
        return Culprit(
            "loss", f"that of example {row} of {len(part.values)} (from 0) in batch {part.index} of the epoch"
        )
    return _bad_gradient(module)


class _Found(Exception):
    pass


def _bad_layer(module: nn.Module, forward: Callable[[], object]) -> Culprit | None:
    """The first layer in the order of computation whose output is not finite."""
    calls: dict[str, int] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, inputs: object, output: object) -> None:
            calls[name] = calls.get(name, 0) + 1
            if any(what(t) for t in _tensors(output)):
                again = f" (call {calls[name]})" if calls[name] > 1 else ""
                raise _Found(f"the output of {name}{again} is not finite")

        return look

    # The copies that a GlowLevel makes for each of its steps keep the hooks: the call is the step.
    handles = [m.register_forward_hook(watch(name)) for name, m in module.named_modules() if name]
    try:
        with unfused(module):
            forward()
    except _Found as found:
        return Culprit("output", str(found))
    finally:
        for handle in handles:
            handle.remove()
    return None


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (tuple, list)) else []


def _bad_gradient(module: nn.Module) -> Culprit:
    """The last layer's: derivatives are computed from the end, and hand on what they got."""
    gradients = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    bad = [(name, found) for name, g in gradients if (found := what(g))]
    if bad:
        others = f", and {len(bad) - 1} others" if len(bad) > 1 else ""
        return Culprit("gradient", f"that of {bad[-1][0]} holds {bad[-1][1]}{others}")
    largest = max(gradients, key=lambda g: float(g[1].abs().max()))[0]
    return Culprit("gradient", f"its norm overflows, and that of {largest} has the largest element")
