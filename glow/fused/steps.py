r"""One step of a Glow, forward, inverse and backward, the last of these by hand; ``function`` makes one of K such.

``Repeated`` says what K equal steps are, in modules that can be read and taken apart; this file computes the same
numbers (``tests/fused/test_level.py`` holds the two together) with a fraction of the kernels and memory:

- Activations are matrices (N, channels) of N = B H W pixels, so that a 1x1 convolution is one matrix product.
- ActNorm and the 1x1 convolution are one product: :math:`z = W (e^{s} (x + b)) = W' x + b'`.
- The first 3x3 convolution of a coupling network has few input channels, the last one few output
  channels. On a GPU the first is a matrix product on the columns of 3x3 neighbourhoods, the last the transpose of
  one, the 1x1 between them a product. On a CPU all three are convolutions, of oneDNN.
- The affine coupling writes its half in place.
- The backward pass is given what it needs of the step, or evaluates the network once more and inverts the step from its
  exact output (Gomez et al. 2017, algorithm 1).

Networks compute in the dtype of their weights (bfloat16 under autocast), all else in that of the activations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glow.bijections.elementwise import sigmoid_scale
from glow.fused.products import (
    Space,
    first_layer,
    first_layer_backward,
    last_layer,
    last_layer_backward,
    middle_layer,
    middle_layer_backward,
)


class Steps(NamedTuple):
    """The parameters of K steps on C channels, or of one of them without the leading K.

    The first c = C // 2 channels condition the rest. The coupling networks have ``width`` hidden channels and
    O outputs per pixel: the shifts, then (affine couplings) what the scales are the sigmoid of.
    """

    matrix: Tensor  # (K, C, C)
    bias: Tensor  # (K, C)
    w1: Tensor  # (K, width, ...), see first_weight
    b1: Tensor  # (K, width)
    w2: Tensor  # (K, width, width, ...), see middle_weight
    b2: Tensor  # (K, width)
    w3: Tensor  # (K, ...), see last_weight
    b3: Tensor  # (K, O), in the dtype of the activations
    # Shifts of the first and of the last layer, (K, 0) where there are none:
    given: Tensor  # (K, B, width), what the context says of each image
    position1: Tensor  # (K, H W, width)
    position3: Tensor  # (K, H W, O)

    def unbind(self) -> "list[Steps]":
        """Those of every step."""
        return [Steps(*tensors) for tensors in zip(*(t.unbind() for t in self), strict=True)]

    @property
    def conditioning(self) -> int:
        """c, the number of channels that condition."""
        return self.matrix.shape[-1] // 2

    def shift(self) -> Tensor | None:
        """What one step adds to its first layer, broadcasting to (B, H W, width)."""
        given = self.given[:, None] if self.given.numel() else None
        if not self.position1.numel():
            return given
        return self.position1 if given is None else self.position1 + given


class Hidden(NamedTuple):
    """What the backward pass needs of a coupling network: two hidden layers (N, width), the scale (N, C - c)."""

    a1: Tensor
    a2: Tensor
    scale: Tensor | None  # None in an additive coupling


def network(
    x1: Tensor, p: Steps, space: Space, min_scale: float | None
) -> tuple[Tensor, Tensor | None, Hidden]:
    """The coupling's shift and log-scale (N, C - c) for the conditioning half (N, c).

    ``min_scale`` is that of ``Affine``, or None for an additive coupling.
    """
    a1 = first_layer(x1, p.w1, p.b1, space, p.shift())
    a2 = middle_layer(a1, p.w2, p.b2, space)
    h = last_layer(a2, p.w3, p.b3, space)
    if p.position3.numel():
        h = (h.view(space[0], -1, h.shape[1]) + p.position3).flatten(0, 1)
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
    x1, x2 = z.tensor_split([p.conditioning], dim=1)
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
    shift, log_scale, hidden = network(z[:, : p.conditioning], p, space, min_scale)
    if log_scale is not None:
        total = total - log_scale
    return invert_coupling(z, shift, hidden.scale, p, inverse), total


def invert_coupling(z: Tensor, shift: Tensor, scale: Tensor | None, p: Steps, inverse: Tensor) -> Tensor:
    """The input of a step whose coupling network was evaluated; ``inverse`` is that of ``p.matrix``."""
    z1, z2 = z.tensor_split([p.conditioning], dim=1)
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
        g: gradient of the loss with respect to z (N, C); is overwritten.
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
    z1, z2 = z.tensor_split([p.conditioning], dim=1)
    if hidden is None:
        shift, _, hidden = network(z1, p, space, min_scale)
        if x is None:
            assert inverse is not None
            x = invert_coupling(z, shift, hidden.scale, p, inverse)
    assert x is not None
    a1, a2, scale = hidden
    g1, g2 = g.tensor_split(
        [p.conditioning], dim=1
    )  # from here on, of the coupling's output, then of its input
    if scale is None or min_scale is None:
        g_h = [g2]
    else:  # z2 = (x2 + shift) scale, so that dz2 / dlog(scale) = z2; slope is dlog(scale) / draw
        slope = 1 - scale if min_scale == 0 else (scale - min_scale) * (1 - scale) / ((1 - min_scale) * scale)
        g_raw = torch.addcmul(g_total, g2, z2).mul_(slope)
        g2 *= scale
        g_h = [g2, g_raw]
    # Gradients of hidden layers are those before their relu.
    g_a2, g_w3, g_b3 = last_layer_backward(*g_h, x=a2, weight=p.w3, space=space)
    g_a1, g_w2, g_b2 = middle_layer_backward(g_a2, a1, p.w2, space)
    g_x1, g_w1, g_b1 = first_layer_backward(g_a1, z1, p.w1, space)
    shifts = shift_gradients(p, space, g_a1, g_h)
    g1 += g_x1
    gradients = Steps(g.T @ x, g.sum(0), g_w1, g_b1, g_w2, g_b2, g_w3, g_b3.to(g.dtype), *shifts)
    return g @ p.matrix, x, gradients


def shift_gradients(p: Steps, space: Space, first: Tensor, last: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of ``given``, ``position1`` and ``position3`` from those of what they are added to: (N, width), (N, O)
    in parts."""
    first = first.view(space[0], -1, first.shape[1])
    return [
        first.sum(1) if p.given.numel() else p.given,
        first.sum(0) if p.position1.numel() else p.position1,
        torch.cat([g.view(space[0], -1, g.shape[1]).sum(0) for g in last], dim=1)
        if p.position3.numel()
        else p.position3,
    ]
