"""A level of Glow: squeeze, then K steps of flow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.actnorm import LOG_SCALE_FACTOR, ActNorm
from glow.bijections.base import exact, sum_event
from glow.bijections.composition import Composition
from glow.bijections.coupling import AffineCoupling, Coupling
from glow.bijections.fused import KEEP, FusedSteps, Kernels, Space, Steps, inverse_of, kernels_of, padded
from glow.bijections.linear import InvertibleConv1x1, Permutation
from glow.bijections.squeeze import Squeeze
from glow.errors import check_choice


class GlowStep(Composition):
    """ActNorm, then a mixing of the channels, then a coupling (Kingma & Dhariwal 2018, figure 2a).

    Args:
        actnorm: of C channels.
        mixing: the 1x1 convolution, or a permutation.
        coupling: affine with a sigmoid scale, or additive, not swapped; its network is a ``ConvNet``.
    """

    def __init__(self, actnorm: ActNorm, mixing: InvertibleConv1x1 | Permutation, coupling: Coupling) -> None:
        super().__init__([actnorm, mixing, coupling])


class GlowLevel(Composition):
    """Squeeze and K equal steps, computed together (see ``glow.bijections.fused``).

    It is the composition of its parts and computes as such inside ``plain``: slower, but module by module.

    Args:
        steps: K of them, alike but for their parameters.
        recompute: what the backward pass computes again instead of keeping it: ``none``; ``step``, the
            coupling networks and every other step's input; ``reversible``, everything from the output.

    Raises:
        UsageError: an unknown ``recompute``.
    """

    _inverse: tuple[Tensor, Tensor] | None = None
    _kernels = Kernels()

    def __init__(self, steps: Sequence[GlowStep], recompute: str = "none") -> None:
        super().__init__([Squeeze(), *steps])
        check_choice("recompute", recompute, KEEP)
        self.recompute = recompute
        self.fused = True
        coupling = self._parts(2)[0]
        self.min_scale = coupling.min_scale if isinstance(coupling, AffineCoupling) else None

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the computation of one step with ``torch.compile`` (whose arguments these are).

        Every size of level and batch is compiled once, when it is first seen.
        """
        self._kernels = Kernels(
            *(torch.compile(kernel, *args, dynamic=False, **options) for kernel in Kernels())
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, 4C, H/2, W/2), log-det (B,)."""
        if not self.fused:
            return super().forward(x, context)
        x, space = self._to_rows(x)
        steps, log_det = self._stacked(x)
        z, total, smallest = FusedSteps.apply(
            x, space, self.min_scale, self.recompute, not self.training, self._kernels, *steps
        )
        if smallest is not None:
            for coupling, scale in zip(self._parts(2), smallest, strict=True):
                coupling.record(scale)
        return self._from_rows(z, space), sum_event(total.view(space[0], -1)) + log_det * space[1] * space[2]

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 4C, H/2, W/2) -> (B, C, H, W), log-det (B,)."""
        if not self.fused:
            return super().inverse(z, context)
        b, _, h, w = z.shape
        space = b, h, w
        rows = z.permute(0, 2, 3, 1).reshape(b * h * w, -1)
        steps, log_det = self._stacked(rows)
        total = rows.new_zeros(len(rows), rows.shape[1] - steps.first)
        with exact(z.device):
            inverses = self._inverses(steps.matrix)
            kernel = kernels_of(steps.w3, steps.b3.shape[1])
            for k in reversed(range(len(inverses))):
                rows, total = self._kernels.inverse(
                    rows, total, steps.step(k), kernel[k], inverses[k], space, self.min_scale
                )
        x, _ = cast(Squeeze, self.steps[0]).inverse(self._from_rows(rows, space))
        return x, sum_event(total.view(b, -1)) - log_det * h * w

    def _to_rows(self, x: Tensor) -> tuple[Tensor, Space]:
        """Squeezed, a row of channels per pixel."""
        x, _ = self.steps[0](x)
        b, c, h, w = x.shape
        return x.permute(0, 2, 3, 1).reshape(b * h * w, c), (b, h, w)

    @staticmethod
    def _from_rows(rows: Tensor, space: Space) -> Tensor:
        return rows.view(*space, -1).permute(0, 3, 1, 2)  # channels_last: no copy

    def _parts(self, i: int) -> list[Any]:
        """ActNorms (0), mixings (1) or couplings (2) of all steps."""
        return [cast(GlowStep, step).steps[i] for step in self.steps[1:]]

    def _stacked(self, x: Tensor) -> tuple[Steps, Tensor]:
        """All parameters in the form and the dtypes that they are used in, and the log-det per pixel, a scalar."""
        low = torch.is_autocast_enabled(x.device.type) and x.dtype == torch.float32
        dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
        actnorms, mixings = self._parts(0), self._parts(1)
        networks = [coupling.network for coupling in self._parts(2)]
        first, second, last = ([network[i] for network in networks] for i in (0, 2, 4))
        with exact(x.device):
            matrix, log_det = mixings[0].stack(mixings)
            shift = torch.stack([actnorm.shift for actnorm in actnorms])
            logs = torch.stack([actnorm.logs for actnorm in actnorms]) * LOG_SCALE_FACTOR
            matrix = matrix.to(x.dtype) * logs.exp()[:, None, :]
            bias = (matrix @ shift[:, :, None]).squeeze(2)
            w1, b1 = first[0].stack(first)  # (K, width, c, 3, 3), (K, width)
            w2, b2 = second[0].stack(second)
            w3, b3 = last[0].stack(last)  # (K, O, width, 3, 3), (K, O)
            if self.min_scale is not None:  # shifts and scales interleaved -> first all shifts
                w3, b3 = (t.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2) for t in (w3, b3))
            w1 = w1.permute(0, 1, 3, 4, 2).flatten(2)
            w1 = F.pad(w1, (0, padded(w1.shape[2] + 1) - w1.shape[2]))
            w3 = w3.flip(3, 4).permute(0, 2, 3, 4, 1).flatten(2)
            w3 = F.pad(w3, (0, padded(w3.shape[2]) - w3.shape[2]))
            w1, b1, w2, b2, w3 = (t.to(dtype) for t in (w1, b1, w2.flatten(2), b2, w3))
            return Steps(matrix, bias, w1, b1, w2, b2, w3, b3), log_det + logs.sum()

    def _inverses(self, matrix: Tensor) -> Tensor:
        """Of the stacked matrices; kept for as long as these have the same values, unless they are learning."""
        if torch.is_grad_enabled() and matrix.requires_grad:
            return inverse_of(matrix)
        known = self._inverse
        if known is None or known[0].device != matrix.device or not torch.equal(known[0], matrix):
            self._inverse = matrix, inverse_of(matrix)
        return cast(tuple[Tensor, Tensor], self._inverse)[1]


@contextmanager
def plain(module: nn.Module) -> Iterator[None]:
    """Inside it, every ``GlowLevel`` of ``module`` calls its parts one by one."""
    levels = [m for m in module.modules() if isinstance(m, GlowLevel)]
    before = [level.fused for level in levels]
    for level in levels:
        level.fused = False
    try:
        yield
    finally:
        for level, fused in zip(levels, before, strict=True):
            level.fused = fused
