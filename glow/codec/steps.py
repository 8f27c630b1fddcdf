"""The steps of a Glow on integers, each exactly invertible, with a stack that pays for what they stretch.

Values are integers in units of 2^-BITS, int64 (B, H, W, C). Following Zhang et al. 2021 (iFlow), section 3, and for the rounded
sums of triangular products Zhang et al. 2021 (iVPF), section 3.3.
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from glow.bijections import (
    ActNorm,
    Affine,
    Bijection,
    Coupling,
    Halves,
    LogisticMixture,
    LUConv1x1,
    Permutation,
    Shift,
    Squeeze,
)
from glow.bijections.actnorm import LOG_SCALE_FACTOR
from glow.bijections.prior import GaussianPrior, SplitPrior, TopPrior
from glow.codec.curves import Mixtures
from glow.codec.fixed import BITS, FixedNet, rounded
from glow.codec.ratios import SCALE_BITS, exponential_scales, looked_up, ratios, sigmoid_scales
from glow.codec.stack import NotCodableError, Stack, scale, unscale
from glow.codec.tables import exp
from glow.errors import UsageError

MATRIX_BITS = 16


class Step(nn.Module):
    """An exactly invertible map of integers, whose tables are its buffers."""

    @abstractmethod
    def forward(self, stack: Stack, x: Tensor, context: Tensor | None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), int64."""

    @abstractmethod
    def inverse(self, stack: Stack, z: Tensor, context: Tensor | None) -> Tensor:
        """The inverse, which leaves the stack as ``forward`` found it."""


class Squeezed(Step):
    """``Squeeze``, which only moves values."""

    def forward(self, stack: Stack, x: Tensor, context: Tensor | None) -> Tensor:
        return _last(Squeeze()(_second(x))[0])

    def inverse(self, stack: Stack, z: Tensor, context: Tensor | None) -> Tensor:
        return _last(Squeeze().inverse(_second(z))[0])


class Permuted(Step):
    """``Permutation``."""

    order: Tensor

    def __init__(self, permutation: Permutation) -> None:
        super().__init__()
        self.register_buffer("order", permutation.order)

    def forward(self, stack: Stack, x: Tensor, context: Tensor | None) -> Tensor:
        return x[..., self.order]

    def inverse(self, stack: Stack, z: Tensor, context: Tensor | None) -> Tensor:
        return z[..., self.order.argsort()]


class Scaled(Step):
    """A shift, then a scale, of every channel: ``ActNorm``."""

    shift: Tensor
    ratio: Tensor

    def __init__(self, shift: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", rounded(shift, BITS).long())
        self.register_buffer("ratio", ratios(factor))

    def forward(self, stack: Stack, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.shift
        return scale(stack, x, self.ratio.expand_as(x), SCALE_BITS)

    def inverse(self, stack: Stack, z: Tensor, context: Tensor | None) -> Tensor:
        return unscale(stack, z, self.ratio.expand_as(z), SCALE_BITS) - self.shift


class Mixed(Step):
    """``ActNorm`` and ``LUConv1x1`` as one matrix P L U, U's columns multiplied by ActNorm's scales.

    U is its diagonal times a unit triangle: the triangle and L add rounded sums, the diagonal scales, and signs and P are free.
    """

    shift: Tensor
    upper: Tensor
    lower: Tensor
    sign: Tensor
    ratio: Tensor
    order: Tensor

    def __init__(self, norm: ActNorm, mixing: LUConv1x1) -> None:
        super().__init__()
        columns = exp(norm.logs.detach().double() * LOG_SCALE_FACTOR)
        diagonal = exp(mixing.logs) * columns
        sign = mixing.sign.detach().double().cpu()
        upper = mixing.upper.detach().double().cpu().triu(1) * columns / (sign * diagonal)[:, None]
        self.register_buffer("shift", rounded(norm.shift, BITS).long())
        self.register_buffer("upper", rounded(upper, MATRIX_BITS))
        self.register_buffer("lower", rounded(mixing.lower.tril(-1), MATRIX_BITS))
        self.register_buffer("sign", sign.long())
        self.register_buffer("ratio", ratios(diagonal))
        self.register_buffer("order", mixing.permutation.argmax(1))

    def forward(self, stack: Stack, x: Tensor, context: Tensor | None) -> Tensor:
        x = x + self.shift
        x = x + _exact_product(x, self.upper)
        x = self.sign * scale(stack, x, self.ratio.expand_as(x), SCALE_BITS)
        x = x + _exact_product(x, self.lower)
        return x[..., self.order]

    def inverse(self, stack: Stack, z: Tensor, context: Tensor | None) -> Tensor:
        z = z[..., self.order.argsort()].double()
        channels = range(z.shape[-1])
        for i in channels[1:]:
            z[..., i] -= _rounded(z[..., :i] @ self.lower[i, :i])
        z = unscale(stack, self.sign * z.long(), self.ratio.expand_as(z), SCALE_BITS).double()
        for i in reversed(channels[:-1]):
            z[..., i] -= _rounded(z[..., i + 1 :] @ self.upper[i, i + 1 :])
        return z.long() - self.shift


class Coupled(Step):
    """A ``Coupling`` of halves: a mixture of logistics or none, a shift, and a scale or none."""

    table: Tensor | None

    def __init__(self, coupling: Coupling, name: str) -> None:
        super().__init__()
        f = coupling.elementwise
        if not (isinstance(f, (Shift, LogisticMixture)) or (isinstance(f, Affine) and f.scale == "sigmoid")):
            raise UsageError(f"{name}: a coupling by {f} has no form in integers")
        if coupling.mask != Halves():
            raise UsageError(f"{name}: a coupling with {coupling.mask} has no form in integers")
        self.network = FixedNet(coupling.network, BITS, name)
        self.mixtures = Mixtures(f) if isinstance(f, LogisticMixture) else None
        self.register_buffer("table", None if isinstance(f, Shift) else sigmoid_scales(f.min_scale))

    def forward(self, stack: Stack, x: Tensor, context: Tensor | None) -> Tensor:
        given, moved = x.tensor_split([x.shape[-1] // 2], dim=-1)
        h = self.network(given, context).unflatten(-1, (moved.shape[-1], -1))
        if self.mixtures is not None:
            moved = self.mixtures(stack, moved, h[..., 2:])
        moved = moved + h[..., 0]
        if self.table is not None:
            moved = scale(stack, moved, looked_up(self.table, h[..., 1]), SCALE_BITS)
        return torch.cat((given, moved), dim=-1)

    def inverse(self, stack: Stack, z: Tensor, context: Tensor | None) -> Tensor:
        given, moved = z.tensor_split([z.shape[-1] // 2], dim=-1)
        h = self.network(given, context).unflatten(-1, (moved.shape[-1], -1))
        if self.table is not None:
            moved = unscale(stack, moved, looked_up(self.table, h[..., 1]), SCALE_BITS)
        moved = moved - h[..., 0]
        if self.mixtures is not None:
            moved = self.mixtures.inverse(stack, moved, h[..., 2:])
        return torch.cat((given, moved), dim=-1)


class Prior(Step):
    """``SplitPrior``, whose context is the half that goes on, and ``TopPrior``."""

    table: Tensor
    bias: Tensor
    given: Tensor | None

    def __init__(self, prior: GaussianPrior, name: str) -> None:
        super().__init__()
        self.register_buffer("table", exponential_scales())
        self.network = FixedNet(prior.network, BITS, name) if isinstance(prior, SplitPrior) else None
        if isinstance(prior, TopPrior):
            for key, value in {"bias": prior.bias, "given": prior.given}.items():
                self.register_buffer(key, None if value is None else rounded(value, BITS).long())
            self.size = prior.size

    def forward(self, stack: Stack, x: Tensor, context: Tensor | None) -> Tensor:
        mean, log_sd = self._mean_and_log_sd(x, context)
        return scale(stack, x - mean, looked_up(self.table, log_sd), SCALE_BITS)

    def inverse(self, stack: Stack, z: Tensor, context: Tensor | None) -> Tensor:
        mean, log_sd = self._mean_and_log_sd(z, context)
        return unscale(stack, z, looked_up(self.table, log_sd), SCALE_BITS) + mean

    def _mean_and_log_sd(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.network is not None:
            assert context is not None
            h = self.network(context)
            return h[..., 0::2], h[..., 1::2]
        h = x.new_zeros(1, 2 * x.shape[-1] * math.prod(self.size)) if self.bias is None else self.bias[None]
        if self.given is not None and context is not None:
            h = h + (context.double() @ self.given.double().T).long()
        mean, log_sd = h.unflatten(1, (-1, *self.size)).movedim(1, -1).chunk(2, dim=-1)
        return mean.expand_as(x), log_sd.expand_as(x)


def step_of(bijection: Bijection, name: str) -> Step:
    """Its form on integers.

    Raises:
        UsageError: it has none.
    """
    if isinstance(bijection, Squeeze):
        return Squeezed()
    if isinstance(bijection, Permutation):
        return Permuted(bijection)
    if isinstance(bijection, ActNorm):
        return Scaled(bijection.shift, exp(bijection.logs.detach().double() * LOG_SCALE_FACTOR))
    if isinstance(bijection, Coupling):
        return Coupled(bijection, name)
    if isinstance(bijection, (SplitPrior, TopPrior)):
        return Prior(bijection, name)
    raise UsageError(f"{name}: {type(bijection).__name__} has no form in integers")


def _exact_product(x: Tensor, matrix: Tensor) -> Tensor:
    """Sums of x (..., n) by the rows of matrix (n, n), rounded: int64. They stay below 2^53: exact in any order.

    Raises:
        NotCodableError: they would not.
    """
    largest = matrix.abs().sum(1).max().clamp(min=1)
    if x.numel() and x.abs().max() >= 2.0**52 / largest:
        raise NotCodableError
    return _rounded(x.double() @ matrix.T).long()


def _rounded(sums: Tensor) -> Tensor:
    """From units of 2^-MATRIX_BITS to whole numbers, float64."""
    return sums.mul_(2.0**-MATRIX_BITS).add_(0.5).floor_()


def _second(x: Tensor) -> Tensor:
    return x.movedim(3, 1)


def _last(x: Tensor) -> Tensor:
    return x.movedim(1, 3)
