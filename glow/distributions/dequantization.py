"""From grey levels to real numbers and back, with the level correction that this costs."""

import math
import warnings
from functools import partial

import torch
from torch import Tensor, nn

from glow.bijections.base import Shape
from glow.errors import UsageError, check_positive, looks_at_values
from glow.seeds import draw


def check_grey_levels(grey_levels: int) -> None:
    """Raise ``UsageError`` unless it is an integer from 2 to 256."""
    check_positive("grey_levels", grey_levels, integer=True)
    if not 2 <= grey_levels <= 256:
        raise UsageError(f"grey_levels must be between 2 and 256, got {grey_levels}")


def check_levels(q: Tensor, grey_levels: int) -> None:
    """Raise ``UsageError`` unless q are integers in 0 .. grey_levels-1."""
    if q.is_floating_point():
        raise UsageError(f"images must be integers from 0 to {grey_levels - 1}, got {q.dtype}")
    # A uint8 picture of 256 levels is in range by its type; only the others are worth a look.
    may_leave = (q.dtype != torch.uint8 or grey_levels < 256) and looks_at_values()
    if may_leave and ((q < 0) | (q >= grey_levels)).any():
        raise UsageError(
            f"images must be integers from 0 to {grey_levels - 1}, got values from {q.min()} to {q.max()}"
        )


class Dequantization(nn.Module):
    r"""Uniform dequantization of an integer in 0 .. levels-1 (Theis et al. 2016, section 3.1).

    .. math:: x = (q + u) / levels - 1/2, \qquad u \sim U[0, 1)

    The level correction is the log-determinant of the scaling, :math:`-D \ln levels`, with D the number of values in
    one element, taken from the tensor. A density model of x plus this correction is a lower bound on
    the log-probability of the integers; divided by :math:`-D \ln 2` it is the field's bits/dim (Glow's
    released code, ``model.py``), with :math:`levels = 2^{n\_bits}`. This class owns both the noise and its
    correction, so that they cannot disagree. It is no ``Bijection``: many x are of one integer.

    Args:
        grey_levels: 2 to 256; 2^n_bits is the usual case.

    >>> dequantization = Dequantization(4)
    >>> q = torch.tensor([[0, 3]])
    >>> x, correction = dequantization(q, torch.tensor(0.5))
    >>> x.tolist(), dequantization.quantize(x).tolist()
    ([[-0.375, 0.375]], [[0, 3]])
    """

    CENTRE = 0.5
    """The noise that takes an integer to the centre of its bin."""

    def __init__(self, grey_levels: int = 256) -> None:
        super().__init__()
        check_grey_levels(grey_levels)
        self.grey_levels = grey_levels

    @torch.compiler.disable  # so that a seed gives the same noise in a compiled flow
    def noise(
        self,
        n: int,
        shape: Shape,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Uniform in [0, 1) for ``n`` elements: (n, *shape)."""
        return draw(partial(torch.rand, dtype=dtype), n, *shape, generator=generator, device=device)

    def forward(self, q: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Integers (B, ...) -> reals in [-1/2, 1/2) (B, ...), level correction (B,), nats.

        Args:
            q: integers in 0 .. levels-1, any integer dtype.
            noise: values in [0, 1), of q's shape or broadcasting to it; its dtype is the result's.

        Raises:
            UsageError: ``q`` is not of an integer dtype or leaves the range.
        """
        check_levels(q, self.grey_levels)
        x = (q + noise) / self.grey_levels - 0.5
        return x, self.correction(x)

    def correction(self, x: Tensor) -> Tensor:
        """The level correction of reals (B, ...): (B,), nats."""
        return x.new_full((len(x),), -math.prod(x.shape[1:]) * math.log(self.grey_levels))

    def quantize(self, x: Tensor) -> Tensor:
        """Reals (B, ...) -> the grey level of their bin, uint8 (B, ...).

        Values outside the range go to its nearest end. Values that are not finite become level 0, with a
        warning that counts the affected elements.
        """
        finite = torch.isfinite(x)
        if not finite.all():
            bad = int((~finite.flatten(1).all(1)).sum())
            warnings.warn(
                f"{bad} of {len(x)} images have values that are not finite; drawn black", stacklevel=2
            )
            x = torch.where(finite, x, -0.5)
        return ((x + 0.5) * self.grey_levels).floor().clamp(0, self.grey_levels - 1).to(torch.uint8)
