"""A level of Glow without its squeeze: K equal steps of flow, computed together."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from glow.bijections.actnorm import LOG_SCALE_FACTOR, ActNorm
from glow.bijections.base import Bijection, ieee_precision, sum_event
from glow.bijections.composition import Composition
from glow.bijections.coupling import Coupling, Halves
from glow.bijections.elementwise import SCALE_OFFSET, Affine, Shift
from glow.bijections.linear import InvertibleConv1x1, Permutation
from glow.bijections.repeated import Repeated
from glow.bijections.scales import RecordsScales
from glow.errors import UsageError, check_choice, looks_at_values
from glow.fused.function import INPUTS_EVERY, FusedSteps, Kernels, Settings, inverse_of
from glow.fused.products import Space, first_weight, last_weight, middle_weight, use_triton
from glow.fused.steps import Steps
from glow.networks import ConvNet


class FusedLevel(Repeated, RecordsScales):
    """K equal steps of Glow (Kingma & Dhariwal 2018, figure 2a), computed together (see ``glow.fused.steps``).

    Parameters, their names and all numbers are those of ``Repeated``, which it is inside ``unfused``: slower, but
    through the modules of its steps. An empty batch takes that way, too.

    Args:
        steps: K of them, which ``supports`` accepts, alike but for their parameters; the first one is taken over.
        recompute: what the backward pass computes again instead of keeping it: ``none``; ``step``, the
            coupling networks and every other step's input; ``reversible``, everything from the output.
        kernels: what computes the coupling networks on a GPU, in other dtypes than float64: ``torch``, or ``triton`` where
            that does more at once (``glow.fused.kernels``). Elsewhere torch does.

    Raises:
        UsageError: no steps, steps that differ, or that are not supported, an unknown ``recompute`` or ``kernels``; when
            trained on a GPU, ``triton`` without Triton.
    """

    compiles = True

    _inverse: tuple[Tensor, Tensor] | None = None
    """The stacked matrices (K, C, C) and their inverses, see ``_inverses``."""

    def __init__(self, steps: Sequence[Bijection], recompute: str = "none", kernels: str = "torch") -> None:
        super().__init__(steps)
        check_choice("recompute", recompute, INPUTS_EVERY)
        check_choice("kernels", kernels, ("torch", "triton"))
        if not self.supports(steps[0]):
            raise UsageError(
                "a FusedLevel takes steps of ActNorm, 1x1 convolution or permutation, and a coupling with a ConvNet: "
                "affine with scale='sigmoid', or additive; not swapped"
            )
        self.recompute, self.kernels = recompute, kernels
        self._compiled: Kernels | None = None
        self._sizes: dict[str, torch.Size] = {}
        self._for_training = True

    @staticmethod
    def supports(step: nn.Module) -> bool:
        """Whether the kernels compute such a step."""
        if not isinstance(step, Composition) or len(step.steps) != 3:
            return False
        actnorm, mixing, coupling = step.steps
        return (
            isinstance(actnorm, ActNorm)
            and isinstance(mixing, (InvertibleConv1x1, Permutation))
            and isinstance(coupling, Coupling)
            and coupling.mask == Halves()
            and type(coupling.network) is ConvNet
            and isinstance(coupling.elementwise, (Affine, Shift))
            and getattr(coupling.elementwise, "scale", "sigmoid") == "sigmoid"
        )

    def compile(self, **options: Any) -> None:
        """Compile the computation of one step with ``torch.compile`` (whose options these are).

        It is compiled for the size of the first batch that is trained on, or evaluated if that is the mode at this call, and
        of the first that is inverted; other sizes run as before. Raises the process's limit of compiled versions of a
        function, of which every level needs one.
        """
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        self._compiled = Kernels(*(torch.compile(kernel, dynamic=False, **options) for kernel in Kernels()))
        self._sizes, self._for_training = {}, self.training

    def _kernels_for(self, direction: str, x: Tensor) -> Kernels:
        if self._compiled is None:
            return Kernels()
        trains = self.training and torch.is_grad_enabled()
        if direction == "inverse" or trains == self._for_training:
            self._sizes.setdefault(direction, x.shape)
        return self._compiled if self._sizes.get(direction) == x.shape else Kernels()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was compiled, which is not for another process."""
        return {**self.__dict__, "_compiled": None, "_sizes": {}}

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C, H, W), log-det (B,)."""
        return self._fused_forward(x, context) if self.fused and len(x) else super().forward(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, C, H, W), log-det (B,)."""
        return self._fused_inverse(z, context) if self.fused and len(z) else super().inverse(z, context)

    # Someone's torch.compile of a whole flow goes round both: it knows neither how to trace the hand-written derivative
    # nor that the kept inverse depends on values.
    @torch.compiler.disable
    def _fused_forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        b, c, h, w = x.shape
        steps, log_det = self._parameters_for(x, context)
        space = Space(b, h, w, self.kernels == "triton" and use_triton(steps.w1, self.training))
        settings = Settings(space, self._min_scale, self.recompute, self._kernels_for("forward", x))
        rows = x.permute(0, 2, 3, 1).reshape(-1, c)
        z, log_scales, extremes = FusedSteps.apply(rows, settings, self.recorder is not None, *steps)
        if self.recorder is not None and extremes is not None:
            self.recorder.add(extremes[:, 0].amin(), extremes[:, 1].amax())
        z = z.view(b, h, w, c).permute(0, 3, 1, 2)  # channels_last
        return z, sum_event(log_scales.view(b, -1)) + log_det * h * w

    @torch.compiler.disable
    def _fused_inverse(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        b, c, h, w = z.shape
        steps, log_det = self._parameters_for(z, context)
        rows = z.permute(0, 2, 3, 1).reshape(-1, c)
        log_scales = rows.new_zeros(len(rows), c - steps.conditioning)
        by_autograd = torch.is_grad_enabled()  # which knows nothing of Triton's kernels
        space = Space(
            b, h, w, self.kernels == "triton" and not by_autograd and use_triton(steps.w1, self.training)
        )
        with ieee_precision(z.device):
            inverses = self._inverses(steps.matrix)
            step_back = self._kernels_for("inverse", z).inverse
            for p, inverse in zip(reversed(steps.unbind()), reversed(inverses.unbind()), strict=True):
                rows, log_scales = step_back(rows, log_scales, p, inverse, space, self._min_scale)
        x = rows.view(b, h, w, c).permute(0, 3, 1, 2)
        return x, sum_event(log_scales.view(b, -1)) - log_det * h * w

    @property
    def _min_scale(self) -> float | None:
        """That of ``Affine``; None for an additive coupling."""
        elementwise = cast(Any, self.step).steps[2].elementwise
        return elementwise.min_scale if isinstance(elementwise, Affine) else None

    def _parameters_for(self, x: Tensor, context: Tensor | None) -> tuple[Steps, Tensor]:
        """All parameters in the form and dtypes that an input's computation takes, and log|det| per pixel, a scalar."""
        low = torch.is_autocast_enabled(x.device.type) and x.dtype == torch.float32
        dtype = torch.get_autocast_dtype(x.device.type) if low else x.dtype
        actnorm, mixing, coupling = cast(Any, self.step).steps
        first, _, second, _, last = coupling.network
        with ieee_precision(x.device):
            logs = actnorm.logs * LOG_SCALE_FACTOR
            matrix = mixing.weight().to(x.dtype) * logs.exp()[:, None, :]
            bias = (matrix @ actnorm.shift[:, :, None]).squeeze(2)
            w1, b1 = first.scaled()  # (K, width, c, 3, 3), (K, width)
            w2, b2 = second.scaled()  # (K, width, width, 1, 1), (K, width)
            w3, b3 = last.scaled()  # (K, O, width, 3, 3), (K, O)
            none = x.new_empty(self.depth, 0)
            given = p1 = p3 = none
            if first.given is not None and context is not None:
                given = torch.einsum("bn,kwn->kbw", context, first.given)
            if first.position is not None:
                p1 = first.position.flatten(2).transpose(1, 2)  # (K, H W, width)
                p3 = last.position
            if self._min_scale is not None:  # shifts and scales interleaved -> first all shifts
                w3, p3 = (torch.cat((t[:, 0::2], t[:, 1::2]), dim=1) for t in (w3, p3))
                b3 = torch.cat((b3[:, 0::2], b3[:, 1::2] + SCALE_OFFSET), dim=1)
            if last.position is not None:
                p3 = p3.flatten(2).transpose(1, 2)  # (K, H W, O)
            w1, b1, w2, b2, w3, given, p1 = (t.to(dtype) for t in (w1, b1, w2, b2, w3, given, p1))
            w1, w2, w3 = first_weight(w1), middle_weight(w2), last_weight(w3)
            steps = Steps(matrix, bias, w1, b1, w2, b2, w3, b3, given, p1.contiguous(), p3.contiguous())
            return steps, mixing.log_abs_det() + logs.sum()

    def _inverses(self, matrix: Tensor) -> Tensor:
        """Of the stacked matrices; kept, without autograd, for as long as these have the same values.

        Values, because in-place edits through ``.data`` (Lightning's weight averaging swaps weights that way) leave a
        parameter's version counter as it was.
        """
        if torch.is_grad_enabled():
            return inverse_of(matrix)
        known = self._inverse
        same = known is not None and (known[0].device, known[0].dtype) == (matrix.device, matrix.dtype)
        if known is None or not same or (looks_at_values() and not torch.equal(known[0], matrix)):
            known = self._inverse = matrix, inverse_of(matrix)
        return known[1]
