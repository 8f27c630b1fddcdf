"""K steps as one function of autograd, with what is kept for the backward pass or computed again."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from glow.bijections.base import ieee_precision
from glow.fused.products import Space
from glow.fused.steps import Hidden, Steps, backward_step, forward_step, inverse_step

INPUTS_EVERY = {"none": 1, "step": 2, "reversible": 0}
"""``recompute`` -> of every how many steps the input is kept for the backward pass (0: of none, only the
level's output). Only ``none`` also keeps the networks' hidden layers, which need most of the memory."""


class Kernels(NamedTuple):
    """The three functions, as they are or compiled."""

    forward: Callable[..., Any] = forward_step
    inverse: Callable[..., Any] = inverse_step
    backward: Callable[..., Any] = backward_step


class Settings(NamedTuple):
    """What does not change from batch to batch."""

    space: Space
    min_scale: float | None
    recompute: str
    kernels: Kernels


def forward_steps(
    x: Tensor, steps: Steps, settings: Settings, keep: bool, watch: bool
) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
    """K steps: x (N, C) -> z (N, C), summed log-scales (N, C - c), extreme scales, what ``backward_steps`` needs.

    ``keep`` asks for the last of these, ``watch`` for the smallest and the largest scale of every step (K, 2).
    """
    space, min_scale, recompute, kernels = settings
    every = INPUTS_EVERY[recompute]
    total = x.new_zeros(len(x), x.shape[1] - steps.conditioning)
    inputs, hiddens, extremes = list[Tensor](), list[Tensor](), list[Tensor]()
    for k, step in enumerate(steps.unbind()):
        if keep and every and k % every == 0:
            inputs.append(x)
        x, total, hidden = kernels.forward(x, total, step, space, min_scale)
        if keep and recompute == "none":
            hiddens += [t for t in hidden if t is not None]
        if watch and hidden.scale is not None:
            extremes.append(torch.stack(hidden.scale.aminmax()))
        del hidden  # or else the next step's layers could not take its memory, which is in the cache
    return x, total, torch.stack(extremes) if extremes else None, [*inputs, *hiddens]


def backward_steps(
    g: Tensor,
    g_total: Tensor,
    z: Tensor,
    steps: Steps,
    inverses: Tensor | None,
    kept: Sequence[Tensor],
    settings: Settings,
) -> list[Tensor]:
    """From the last step to the first: gradients with respect to the input and to all of ``steps``."""
    space, min_scale, recompute, kernels = settings
    depth, every = len(steps.matrix), INPUTS_EVERY[recompute]
    n_inputs = len(range(0, depth, every)) if every else 0
    inputs, hiddens = kept[:n_inputs], kept[n_inputs:]
    each = len(hiddens) // depth
    gradients: list[Steps] = []
    g = g.clone()
    each_step = steps.unbind()
    for k in reversed(range(depth)):
        x = inputs[k // every] if every and k % every == 0 else None
        hidden = None
        if each:
            a1, a2, *scale = hiddens[each * k : each * (k + 1)]
            hidden = Hidden(a1, a2, scale[0] if scale else None)
        inverse = inverses[k] if inverses is not None and x is None else None
        g, z, gradient = kernels.backward(g, g_total, x, z, hidden, each_step[k], inverse, space, min_scale)
        gradients.append(gradient)
    return [g, *(torch.stack(t[::-1]) for t in zip(*gradients, strict=True))]


class FusedSteps(torch.autograd.Function):
    """``forward_steps`` without what is kept, with ``backward_steps`` as its derivative."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, settings: Settings, watch: bool, *parameters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``parameters`` are those of a ``Steps``."""
        keep = any(ctx.needs_input_grad)
        with ieee_precision(x.device):
            z, total, extremes, kept = forward_steps(x, Steps(*parameters), settings, keep, watch)
        if keep:
            ctx.settings = settings
            ctx.save_for_backward(z, *parameters, *kept)
        if extremes is not None:
            ctx.mark_non_differentiable(extremes)
        return z, total, extremes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, g_total: Tensor, _: Tensor | None) -> tuple[Any, ...]:
        """See ``backward_steps``."""
        z, *saved = ctx.saved_tensors
        steps, kept = Steps(*saved[: len(Steps._fields)]), saved[len(Steps._fields) :]
        with ieee_precision(g.device):
            inverses = None if ctx.settings.recompute == "none" else inverse_of(steps.matrix)
            gradient, *gradients = backward_steps(g, g_total, z, steps, inverses, kept, ctx.settings)
        return gradient, None, None, *gradients


def inverse_of(matrix: Tensor) -> Tensor:
    """The inverses of matrices (K, C, C), computed in float64 (on the CPU for devices without it)."""
    double = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()
    return torch.linalg.inv_ex(double).inverse.to(matrix)
