"""Grey levels to normal numbers, by the distribution function of each channel."""

import math
from typing import cast

import torch
from torch import Tensor

from glow.bijections.base import Bijection, DataDependent, sum_event
from glow.errors import UsageError

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


class Gaussianize(Bijection, DataDependent):
    r"""Every value through the distribution function F of its channel, then to the normal number of that rank.

    .. math:: z = \Phi^{-1}(F(x)), \qquad \log |dz/dx| = \log(n h_v) - \log \phi(z)

    F is piecewise linear: level v of n, the values x from :math:`v/n - 1/2` to :math:`(v + 1)/n - 1/2`, has probability
    :math:`h_v`, counted once from data. A grey level that half of all values have is a spike of width 1/n, which a flow
    of affine couplings models worst; this map makes every channel standard normal before the flow begins, and its inverse
    never leaves the range (Chen & Gopinath 2000, section 3; Laparra et al. 2011).

    Outside of [-1/2, 1/2] the density is zero: the log-determinant is minus infinity there.

    Args:
        channels: C of inputs (B, C, H, W), the values of ``Dequantization``.
        grey_levels: n.

    >>> layer, x = Gaussianize(1, 2), torch.tensor([-0.25, -0.25, -0.25, 0.25]).view(4, 1, 1, 1)
    >>> layer.initialize(x)  # three of four values are of the lower level
    >>> z, log_det = layer(x)
    >>> [round(v, 2) for v in torch.special.ndtr(z).flatten().tolist()]
    [0.33, 0.33, 0.33, 0.83]
    >>> torch.allclose(layer.inverse(z)[0], x)
    True
    """

    kind = "marginals"
    takes_counts = True

    probability: Tensor

    def __init__(self, channels: int, grey_levels: int) -> None:
        super().__init__()
        self.register_buffer("probability", torch.full((channels, grey_levels), 1 / grey_levels))

    def initialize(self, x: Tensor, counts: Tensor | None = None) -> None:
        """Count levels: from ``counts`` (C, n), a histogram of all data, or else from the batch ``x`` (B, C, H, W).

        One is added to every count, so that no level is impossible.
        """
        channels, n = self.probability.shape
        if counts is None:
            level = self._level(x).transpose(0, 1).flatten(1)
            counts = torch.stack([channel.bincount(minlength=n) for channel in level])
        if tuple(counts.shape) != (channels, n):
            raise UsageError(
                f"counts must be of {channels} channels and {n} levels, got {tuple(counts.shape)}"
            )
        counts = counts.to("cpu", torch.float64) + 1
        self.probability.copy_(counts / counts.sum(1, keepdim=True))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reals in [-1/2, 1/2] (B, C, H, W) -> (B, C, H, W), log-det (B,)."""
        n = self.probability.shape[1]
        level = self._level(x)
        h, below, above = self._at(level)
        position = (x + 0.5) * n - level  # within the level, 0 to 1
        # What rounding leaves of a number near an end of the range: never the end itself, which is at infinity.
        least = torch.finfo(x.dtype).eps * n / 8
        u = position.clamp(least, 1 - least)
        low, high = below + u * h, above + (1 - u) * h  # F and 1 - F, each exact where it is small
        z = torch.special.ndtri(torch.minimum(low, high)) * torch.where(low < high, 1, -1)
        inside = (position >= 0) & (position <= 1)
        return z, sum_event(torch.where(inside, self._log_slope(z, h), -torch.inf))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> reals in [-1/2, 1/2] (B, C, H, W), log-det (B,)."""
        n = self.probability.shape[1]
        # erfc, not ndtr, which has no digits left in float32 below -5.
        low, high = 0.5 * torch.erfc(-z * math.sqrt(0.5)), 0.5 * torch.erfc(z * math.sqrt(0.5))
        # The level from the end that is nearer, whose probabilities add up without rounding to one.
        up, down = self._search(self.probability, low), n - 1 - self._search(self.probability.flip(1), high)
        level = torch.where(low < high, up, down)
        h, below, above = self._at(level)
        u = torch.where(low < high, (low - below) / h, 1 - (high - above) / h).clamp(0, 1)
        return (level + u) / n - 0.5, -sum_event(self._log_slope(z, h))

    def extra_repr(self) -> str:
        channels, n = self.probability.shape
        return f"channels={channels}, grey_levels={n}"

    def _log_slope(self, z: Tensor, h: Tensor) -> Tensor:
        return (h * self.probability.shape[1]).log() + 0.5 * z.square() + HALF_LOG_2_PI

    def _level(self, x: Tensor) -> Tensor:
        """int64, of x's shape; beyond an end, the last one, and the first of what is no number."""
        n = self.probability.shape[1]
        return ((x.detach() + 0.5) * n).floor().clamp(0, n - 1).nan_to_num(0).long()

    def _at(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a level (B, C, H, W): its probability, that of all levels below it, and of all above."""
        h = self.probability
        below, above = h.cumsum(1) - h, h.flip(1).cumsum(1).flip(1) - h
        channels, n = h.shape
        at = level + n * torch.arange(channels, device=level.device)[:, None, None]
        return cast(tuple[Tensor, Tensor, Tensor], tuple(table.take(at) for table in (h, below, above)))

    def _search(self, h: Tensor, rank: Tensor) -> Tensor:
        """How many levels have their end at or below that rank: (B, C, H, W), at most n - 1."""
        b, c, *space = rank.shape
        ranks = rank.detach().transpose(0, 1).reshape(c, -1)
        found = torch.searchsorted(h.cumsum(1), ranks, right=True).clamp(max=h.shape[1] - 1)
        return found.view(c, b, *space).transpose(0, 1)
