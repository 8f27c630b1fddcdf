"""A level of Glow: squeeze, then K steps of flow."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from glow.bijections.actnorm import LOG_SCALE_FACTOR, ActNorm
from glow.bijections.base import Bijection, Shape, ieee_precision, sum_event
from glow.bijections.composition import Composition
from glow.bijections.coupling import SHARPNESS, AdditiveCoupling, AffineCoupling, Coupling
from glow.bijections.linear import InvertibleConv1x1, Permutation
from glow.bijections.squeeze import Squeeze
from glow.errors import UsageError, check_choice
from glow.fused.products import first_weight, last_weight, middle_weight
from glow.fused.steps import KEEP, FusedSteps, Kernels, Settings, Steps, inverse_of


class GlowStep(Composition):
    """ActNorm, then a mixing of the channels, then a coupling (Kingma & Dhariwal 2018, figure 2a).

    Args:
        actnorm: of C channels.
        mixing: the 1x1 convolution, or a permutation.
        coupling: affine with a sigmoid scale, or additive, not swapped; its network is a ``ConvNet``.

    Raises:
        UsageError: another coupling, which the level could not compute.
    """

    def __init__(self, actnorm: ActNorm, mixing: InvertibleConv1x1 | Permutation, coupling: Coupling) -> None:
        if (
            coupling.swap
            or not isinstance(coupling, (AffineCoupling, AdditiveCoupling))
            or (isinstance(coupling, AffineCoupling) and coupling.scale != "sigmoid")
        ):
            raise UsageError(
                "a GlowStep's coupling must be affine with scale='sigmoid', or additive; not swapped"
            )
        super().__init__([actnorm, mixing, coupling])


class GlowLevel(Bijection):
    """Squeeze and K equal steps, computed together (see ``glow.fused.steps``).

    The parameters of the steps are stacked: ``steps`` is a single step whose parameters all have a leading
    dimension K. That makes them few, for the optimizer's sake, and ready for the computation. ``unstack`` gives K
    ordinary steps, and inside ``plain`` the level calls those one after another: slower, and the same numbers.

    Args:
        steps: K of them, alike but for their parameters; the first one is taken over.
        recompute: what the backward pass computes again instead of keeping it: ``none``; ``step``, the
            coupling networks and every other step's input; ``reversible``, everything from the output.

    Raises:
        UsageError: no steps, steps with different ``min_scale``, or an unknown ``recompute``.
    """

    _inverse: tuple[Tensor, Tensor] | None = None

    def __init__(self, steps: Sequence[GlowStep], recompute: str = "none") -> None:
        super().__init__()
        check_choice("recompute", recompute, KEEP)
        if len({getattr(step.steps[2], "min_scale", None) for step in steps}) != 1:
            raise UsageError("a GlowLevel needs one step or more, all with the same min_scale")
        self.recompute = recompute
        self.depth = len(steps)
        self.squeeze = Squeeze()
        self.steps = _stack(steps)
        self.fused = True
        self._compiled: Kernels | None = None
        self._sizes: dict[str, torch.Size] = {}

    def compile(self, **options: Any) -> None:
        """Compile the computation of one step with ``torch.compile`` (whose options these are).

        It is compiled for the size of the first batch that is trained on, and of the first that is inverted; other sizes
        run as before. Raises the process's limit of compiled versions of a function, of which every level needs one.
        """
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        self._compiled = Kernels(*(torch.compile(kernel, dynamic=False, **options) for kernel in Kernels()))
        self._sizes = {}

    def _kernels_for(self, direction: str, x: Tensor) -> Kernels:
        if self._compiled is None:
            return Kernels()
        if direction == "inverse" or (self.training and torch.is_grad_enabled()):
            self._sizes.setdefault(direction, x.shape)
        return self._compiled if self._sizes.get(direction) == x.shape else Kernels()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which is not for another process."""
        return {**self.__dict__, "_compiled": None, "_sizes": {}}

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, 4C, H/2, W/2), log-det (B,)."""
        x, total = self.squeeze(x)
        if not self.fused:
            for step in self.unstack():
                x, log_det = step(x)
                total = total + log_det
                scale = getattr(step.steps[2], "smallest_scale", None)
                if scale is not None:
                    self._coupling.record(scale)
            return x, total
        b, c, h, w = x.shape
        steps, log_det = self._parameters_for(x)
        settings = Settings((b, h, w), self._min_scale, self.recompute, self._kernels_for("forward", x))
        rows = x.permute(0, 2, 3, 1).reshape(-1, c)
        z, log_scales, smallest = FusedSteps.apply(rows, settings, not self.training, *steps)
        if smallest is not None:
            self._coupling.record(smallest)
        z = z.view(b, h, w, c).permute(0, 3, 1, 2)  # channels_last
        return z, sum_event(log_scales.view(b, -1)) + log_det * h * w

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 4C, H/2, W/2) -> (B, C, H, W), log-det (B,)."""
        b, c, h, w = z.shape
        if not self.fused:
            total = z.new_zeros(b)
            for step in reversed(self.unstack()):
                z, log_det = step.inverse(z)
                total = total + log_det
            return self.squeeze.inverse(z)[0], total
        steps, log_det = self._parameters_for(z)
        rows = z.permute(0, 2, 3, 1).reshape(-1, c)
        log_scales = rows.new_zeros(len(rows), c - steps.first)
        with ieee_precision(z.device):
            inverses = self._inverses(steps.matrix)
            step_back = self._kernels_for("inverse", z).inverse
            for p, inverse in zip(reversed(steps.unbind()), reversed(inverses.unbind()), strict=True):
                rows, log_scales = step_back(rows, log_scales, p, inverse, (b, h, w), self._min_scale)
        x, _ = self.squeeze.inverse(rows.view(b, h, w, c).permute(0, 3, 1, 2))
        return x, sum_event(log_scales.view(b, -1)) - log_det * h * w

    def output_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (4C, H/2, W/2)."""
        return self.squeeze.output_shape(shape)

    def unstack(self) -> list[GlowStep]:
        """The K steps, sharing this level's parameters: a change through ``.data`` of theirs is one of its."""
        stacked = [*self.steps.parameters(), *self.steps.buffers()]
        return [copy.deepcopy(self.steps, {id(t): t[k] for t in stacked}) for k in range(self.depth)]

    @property
    def _coupling(self) -> Any:
        return self.steps.steps[2]

    @property
    def _min_scale(self) -> float | None:
        return self._coupling.min_scale if isinstance(self._coupling, AffineCoupling) else None

    def _parameters_for(self, x: Tensor) -> tuple[Steps, Tensor]:
        """All parameters in the form and dtypes that an input's computation takes, and log|det| per pixel, a scalar."""
        low = torch.is_autocast_enabled(x.device.type) and x.dtype == torch.float32
        dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
        actnorm, mixing, coupling = cast(Any, self.steps.steps)
        first, _, second, _, last = coupling.network
        with ieee_precision(x.device):
            logs = actnorm.logs * LOG_SCALE_FACTOR
            matrix = mixing.weight().to(x.dtype) * logs.exp()[:, None, :]
            bias = (matrix @ actnorm.shift[:, :, None]).squeeze(2)
            w1, b1 = first.scaled()  # (K, width, c, 3, 3), (K, width)
            w2, b2 = second.scaled()  # (K, width, width, 1, 1), (K, width)
            w3, b3 = last.scaled()  # (K, O, width, 3, 3), (K, O)
            if self._min_scale is not None:  # shifts and scales interleaved -> first all shifts
                w3 = torch.cat((w3[:, 0::2], w3[:, 1::2]), dim=1)
                b3 = torch.cat((b3[:, 0::2], b3[:, 1::2] + SHARPNESS), dim=1)
            w1, b1, w2, b2, w3 = (t.to(dtype) for t in (w1, b1, w2, b2, w3))
            w1, w2, w3 = first_weight(w1), middle_weight(w2), last_weight(w3)
            return Steps(matrix, bias, w1, b1, w2, b2, w3, b3), mixing.log_abs_det() + logs.sum()

    def _inverses(self, matrix: Tensor) -> Tensor:
        """Of the stacked matrices; kept, without autograd, for as long as these have the same values.

        Values, because in-place edits through ``.data`` (Lightning's weight averaging swaps weights that way) leave a
        parameter's version counter as it was.
        """
        if torch.is_grad_enabled():
            return inverse_of(matrix)
        known = self._inverse
        same = known is not None and (known[0].device, known[0].dtype) == (matrix.device, matrix.dtype)
        if known is None or not same or not torch.equal(known[0], matrix):
            known = self._inverse = matrix, inverse_of(matrix)
        return known[1]


def _stack(modules: Sequence[GlowStep]) -> GlowStep:
    """The first of equal modules, with the parameters and buffers of all."""
    stacked = modules[0]
    for name, module in stacked.named_modules():
        others = [m.get_submodule(name) for m in modules]
        for key in [k for k, _ in module.named_parameters(recurse=False)]:
            setattr(module, key, nn.Parameter(torch.stack([getattr(m, key).data for m in others])))
        for key in [k for k, _ in module.named_buffers(recurse=False)]:
            setattr(module, key, torch.stack([getattr(m, key) for m in others]))
    return stacked


@contextmanager
def unfused(module: nn.Module) -> Iterator[None]:
    """Inside it, every ``GlowLevel`` of ``module`` calls its steps, and these their parts, one by one."""
    levels = [m for m in module.modules() if isinstance(m, GlowLevel)]
    before = [level.fused for level in levels]
    for level in levels:
        level.fused = False
    try:
        yield
    finally:
        for level, fused in zip(levels, before, strict=True):
            level.fused = fused
