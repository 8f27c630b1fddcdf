r"""The K steps of a Glow's level as one function with a hand-written backward pass.

``GlowLevel`` says what a level is, in modules that can be read and taken apart; this file computes the same
numbers (``tests/bijections/test_level.py`` holds the two together) with a fraction of the kernels and memory:

- Activations are matrices (N, channels) of N = B H W pixels, so that a 1x1 convolution is one matrix product.
- ActNorm and the 1x1 convolution are one product: :math:`z = W (e^{s} (x + b)) = W' x + b'`.
- The first 3x3 convolution of a coupling network has few input channels, the last one few output
  channels. The first is a product on the columns of 3x3 neighbourhoods, the last the transpose of one.
- The affine coupling writes its half in place.
- The backward pass keeps what it needs of every step, or computes it again from less (``KEEP``); it then
  evaluates each network once, and inverts a step from its exact output (Gomez et al. 2017, algorithm 1).

Networks compute in the dtype of their weights (bfloat16 under autocast), all else in that of the activations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from glow.bijections.base import exact
from glow.bijections.coupling import sigmoid_scale

KEEP = {"none": 1, "step": 2, "reversible": 0}
"""``recompute`` -> of every how many steps the input is kept for the backward pass (0: of none, only the
level's output). Only ``none`` also keeps the networks' hidden layers, which need most of the memory."""

Space = tuple[int, int, int]  # B, H, W


class Steps(NamedTuple):
    """The parameters of K steps on C channels, or of one of them without the leading K.

    The first c = C // 2 channels condition the rest. The coupling networks have ``width`` hidden channels and
    O outputs per pixel: the shifts, then (affine couplings) the raw scales.
    """

    matrix: Tensor  # (K, C, C)
    bias: Tensor  # (K, C)
    w1: Tensor  # (K, width, padded(9 c + 1)), see columns
    b1: Tensor  # (K, width)
    w2: Tensor  # (K, width, width)
    b2: Tensor  # (K, width)
    w3: Tensor  # (K, width, padded(9 O)), see transposed_columns
    b3: Tensor  # (K, O), in the dtype of the activations

    def step(self, k: int) -> Steps:
        """The k-th."""
        return Steps(*(t[k] for t in self))

    @property
    def first(self) -> int:
        """c, the number of channels that condition."""
        return self.matrix.shape[-1] // 2


class Hidden(NamedTuple):
    """What the backward pass needs of a coupling network: two hidden layers (N, width), the scale (N, C - c)."""

    a1: Tensor
    a2: Tensor
    scale: Tensor | None  # None in an additive coupling


def padded(columns: int) -> int:
    """Rows of a multiple of 16 bytes, which matrix units want, in every dtype."""
    return -(-columns // 8) * 8


def columns(x: Tensor, dtype: torch.dtype, ones: bool = False) -> Tensor:
    """The 3x3 neighbourhoods of ``x`` (B, H, W, c) in order (dy, dx, c), zero outside: (N, padded(9 c + ones)).

    ``ones`` sets column 9c to one: with it, the gradient of a weight holds that of the bias.
    """
    b, h, w, c = x.shape
    windows = F.pad(x.to(dtype), (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)  # (B, H, W, c, dy, dx)
    result = x.new_zeros(b, h, w, padded(9 * c + ones), dtype=dtype)
    result[..., : 9 * c].unflatten(-1, (3, 3, c)).copy_(windows.permute(0, 1, 2, 4, 5, 3))
    if ones:
        result[..., 9 * c] = 1
    return result.view(b * h * w, -1)


def transposed_columns(a: Tensor, weight: Tensor, space: Space, c: int) -> Tensor:
    """The transpose of ``x -> columns(x) @ weight.T``: (N, width), (width, padded(9 c)) -> (N, c)."""
    b, h, w = space
    if a.device.type == "cpu":  # there faster as a convolution, with the kernel turned round
        kernel = weight[:, : 9 * c].T.reshape(9, c, -1).flip(0).permute(1, 2, 0).unflatten(2, (3, 3))
        image = a.view(b, h, w, -1).permute(0, 3, 1, 2)  # channels_last
        kernel = kernel.contiguous(memory_format=torch.channels_last)  # (c, width, 3, 3)
        return F.conv2d(image, kernel, padding=1).permute(0, 2, 3, 1).reshape(-1, c)
    spread = F.pad((a @ weight).view(b, h, w, -1), (0, 0, 1, 1, 1, 1))
    total = a.new_zeros(b, h, w, c, dtype=torch.promote_types(a.dtype, torch.float32))
    for dy in range(3):
        for dx in range(3):
            first = (3 * dy + dx) * c
            total = total + spread[:, 2 - dy : 2 - dy + h, 2 - dx : 2 - dx + w, first : first + c]
    return total.view(-1, c)


def linear_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """relu(x W^T + b), without autograd in one kernel."""
    if torch.is_grad_enabled():
        return torch.addmm(bias, x, weight.T).relu()
    return torch._addmm_activation(bias, x, weight.T)


def network(
    x1: Tensor, p: Steps, space: Space, min_scale: float | None
) -> tuple[Tensor, Tensor | None, Hidden]:
    """The coupling's shift and log-scale (N, C - c) for the conditioning half (N, c).

    ``min_scale`` is that of ``AffineCoupling``, or None for an additive coupling.
    """
    a1 = linear_relu(columns(x1.view(*space, -1), p.w1.dtype, ones=True), p.w1, p.b1)
    a2 = linear_relu(a1, p.w2, p.b2)
    h = transposed_columns(a2, p.w3, space, p.b3.shape[0]).to(x1.dtype) + p.b3
    if min_scale is None:
        return h, None, Hidden(a1, a2, None)
    shift, raw = h.chunk(2, dim=1)
    scale, log_scale = sigmoid_scale(raw, min_scale)
    return shift, log_scale, Hidden(a1, a2, scale)


def forward_step(
    x: Tensor, total: Tensor, p: Steps, space: Space, min_scale: float | None
) -> tuple[Tensor, Tensor, Hidden]:
    """One step: x (N, C) -> z (N, C), ``total`` (N, C - c) plus the log-scales, and what backward needs."""
    z = torch.addmm(p.bias, x, p.matrix.T)
    x1, x2 = z.tensor_split([p.first], dim=1)
    shift, log_scale, hidden = network(x1, p, space, min_scale)
    x2 += shift
    if hidden.scale is not None and log_scale is not None:
        x2 *= hidden.scale
        total = total + log_scale
    return z, total, hidden


def inverse_step(
    z: Tensor, total: Tensor, p: Steps, inverse: Tensor, space: Space, min_scale: float | None
) -> tuple[Tensor, Tensor]:
    """One step back: z (N, C) -> x (N, C), and ``total`` (N, C - c) minus the log-scales."""
    shift, log_scale, hidden = network(z[:, : p.first], p, space, min_scale)
    if log_scale is not None:
        total = total - log_scale
    return undo(z, shift, hidden.scale, p, inverse), total


def undo(z: Tensor, shift: Tensor, scale: Tensor | None, p: Steps, inverse: Tensor) -> Tensor:
    """The input of a step whose coupling network was evaluated; ``inverse`` is that of ``p.matrix``."""
    z1, z2 = z.tensor_split([p.first], dim=1)
    return (torch.cat((z1, (z2 if scale is None else z2 / scale) - shift), dim=1) - p.bias) @ inverse.T


def backward_step(
    g: Tensor,
    g_total: Tensor,
    x: Tensor | None,
    z: Tensor,
    hidden: Hidden | None,
    p: Steps,
    inverse: Tensor | None,
    space: Space,
    min_scale: float | None,
) -> tuple[Tensor, Tensor, Steps]:
    """Gradients of one step.

    Args:
        g: gradient of the loss with respect to z (N, C).
        g_total: with respect to the sum of the log-scales (N, C - c).
        x: the step's input (N, C), or None to get it back from z.
        z: the step's output (N, C).
        hidden: what ``forward_step`` returned, or None to evaluate the network again.
        p: the step's parameters.
        inverse: of ``p.matrix``, when x is None.
        space: see ``Space``.
        min_scale: see ``network``.

    Returns:
        the gradient with respect to x, x, and the gradients with respect to the parameters.
    """
    z1, z2 = z.tensor_split([p.first], dim=1)
    if hidden is None:
        shift, _, hidden = network(z1, p, space, min_scale)
        if x is None:
            assert inverse is not None
            x = undo(z, shift, hidden.scale, p, inverse)
    assert x is not None
    a1, a2, scale = hidden
    g1, g2 = g.tensor_split([p.first], dim=1)
    if scale is None or min_scale is None:
        g_h = g2
    else:  # z2 = (x2 + shift) scale, so that dz2 / dlog(scale) = z2
        slope = 1 - scale if min_scale == 0 else (scale - min_scale) * (1 - scale) / ((1 - min_scale) * scale)
        g_scale = (g2 * z2 + g_total) * slope
        g2 = g2 * scale
        g_h = torch.cat((g2, g_scale), dim=1)
    g_columns = columns(g_h.view(*space, -1), a2.dtype)
    g_a2 = torch.ops.aten.threshold_backward(g_columns @ p.w3.T, a2, 0)
    g_a1 = torch.ops.aten.threshold_backward(g_a2 @ p.w2, a1, 0)
    g_w1 = g_a1.T @ columns(z1.view(*space, -1), a1.dtype, ones=True)
    g_y = torch.cat((g1 + transposed_columns(g_a1, p.w1, space, p.first), g2), dim=1)
    gradients = Steps(
        matrix=g_y.T @ x,
        bias=g_y.sum(0),
        w1=g_w1,
        b1=g_w1[:, 9 * p.first],
        w2=g_a2.T @ a1,
        b2=g_a2.sum(0),
        w3=a2.T @ g_columns,
        b3=g_h.sum(0),
    )
    return g_y @ p.matrix, x, gradients


class Kernels(NamedTuple):
    """The three functions, as they are or compiled."""

    forward: Callable[..., Any] = forward_step
    inverse: Callable[..., Any] = inverse_step
    backward: Callable[..., Any] = backward_step


class FusedSteps(torch.autograd.Function):
    """K steps: x (N, C) -> z (N, C), summed log-scales (N, C - c), smallest scale of each step (K,) or None."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        space: Space,
        min_scale: float | None,
        recompute: str,
        watch: bool,
        kernels: Kernels,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``watch`` asks for the smallest scales; ``parameters`` are those of a ``Steps``."""
        steps = Steps(*parameters)
        every = KEEP[recompute]
        training = any(ctx.needs_input_grad)
        total = x.new_zeros(len(x), x.shape[1] - steps.first)
        inputs, hiddens, smallest = [], [], []
        with exact(x.device):
            for k in range(len(steps.matrix)):
                if training and every and k % every == 0:
                    inputs.append(x)
                x, total, hidden = kernels.forward(x, total, steps.step(k), space, min_scale)
                if training and recompute == "none":
                    hiddens += [t for t in hidden if t is not None]
                if watch and hidden.scale is not None:
                    smallest.append(hidden.scale.amin())
        if training:
            ctx.save_for_backward(x, *parameters, *inputs, *hiddens)
            ctx.settings = space, min_scale, recompute, kernels
        watched = torch.stack(smallest) if smallest else None
        if watched is not None:
            ctx.mark_non_differentiable(watched)
        return x, total, watched

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, g_total: Tensor, _: Tensor | None) -> tuple[Any, ...]:
        """From the last step to the first."""
        space, min_scale, recompute, kernels = ctx.settings
        z, *saved = ctx.saved_tensors
        steps = Steps(*saved[: len(Steps._fields)])
        depth, every = len(steps.matrix), KEEP[recompute]
        kept = len(range(0, depth, every)) if every else 0
        inputs = saved[len(steps) : len(steps) + kept]
        hiddens = saved[len(steps) + kept :]
        each = len(hiddens) // depth
        gradients: list[Steps] = []
        with exact(z.device):
            inverses = None if recompute == "none" else inverse_of(steps.matrix)
            for k in reversed(range(depth)):
                x = inputs[k // every] if every and k % every == 0 else None
                hidden = Hidden(*[*hiddens[each * k : each * (k + 1)], None][:3]) if each else None
                inverse = inverses[k] if inverses is not None and x is None else None
                g, z, gradient = kernels.backward(
                    g, g_total, x, z, hidden, steps.step(k), inverse, space, min_scale
                )
                gradients.append(gradient)
        stacked = [torch.stack(t[::-1]) for t in zip(*gradients, strict=True)]
        return g, None, None, None, None, None, *stacked


def inverse_of(matrix: Tensor) -> Tensor:
    """The inverses of matrices (K, C, C), computed in float64 (on the CPU for devices without it)."""
    double = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()
    return torch.linalg.inv(double).to(matrix)
