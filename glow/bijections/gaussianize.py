"""Grey levels to normal numbers, by the distribution function of each channel."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection, DataDependent, sum_event
from glow.errors import UsageError

HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
LARGEST = 10.0
"""Of the normal numbers of noise within a level: their ranks are above zero in float32."""
LARGEST_SHIFT, LARGEST_LOG_SCALE = 4.0, 5.0
"""Of b and a, in absolute value: beyond, the noise of a level would be a single number in float32."""


class _Levels(NamedTuple):
    """Of the level of every value, (B, C, H, W)."""

    share: Tensor
    below: Tensor  # the shares of all lower levels
    above: Tensor
    shift: Tensor  # b
    log_scale: Tensor  # a


class Gaussianize(Bijection, DataDependent):
    r"""Every value through a learned distribution function F of its channel, then to the normal number of that rank.

    .. math:: z = \Phi^{-1}(F(x)), \qquad F(x) = \sum_{j < v} h_j + h_v \, \Phi(e^{a_v} \Phi^{-1}(u) + b_v)

    x is of level v of n, and u in [0, 1] is its position within the level, from :math:`v/n - 1/2` to :math:`(v + 1)/n - 1/2`.
    The shares :math:`h_v` of the levels start as the probabilities counted from data, and a and b as zero: at first every
    channel is standard normal before the flow begins (Chen & Gopinath 2000, section 3; Laparra et al. 2011), and a grey level
    that half of all values have is no longer a spike of width 1/n, which a flow of affine couplings models worst.

    Then all three are trained. Where u is noise of dequantization, a and b choose its distribution in each level: the
    smallest variational dequantization (Ho et al. 2019, section 3.1), and the bound on the log-probability of the integers
    stays one. The levels keep their order, so that whatever was learned, the inverse gives every level back.

    With a ``network``, a and b have also a part that it makes of the levels of all values (mean-field variational dequantization).

    Outside of [-1/2, 1/2] the density is zero: the log-determinant is minus infinity there.

    Args:
        channels: C of inputs (B, C, H, W), the values of ``Dequantization``.
        grey_levels: n.
        network: (B, C, H, W), the normal numbers of the levels' middles, -> (B, 2C, H, W), b and a of one channel after another's;
            None for none.

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

    def __init__(self, channels: int, grey_levels: int, network: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("probability", torch.full((channels, grey_levels), 1 / grey_levels))
        self.log_ratio = nn.Parameter(torch.zeros(channels, grey_levels))  # of share and probability
        self.log_scale = nn.Parameter(torch.zeros(channels, grey_levels))
        self.shift = nn.Parameter(torch.zeros(channels, grey_levels))
        self.network = network

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
        of = self._at(level)
        position = (x + 0.5) * n - level  # within the level, 0 to 1
        # What rounding leaves of a number near an end of the range: never the end itself, which is at infinity.
        least = torch.finfo(x.dtype).eps * n / 4
        raw = torch.special.ndtri(position.clamp(least, 1 - least))
        noise = of.log_scale.exp() * raw + of.shift
        finite = noise.clamp(-LARGEST, LARGEST)
        z = _normal_number(of.below + of.share * _rank(finite), of.above + of.share * _rank(-finite))
        inside = (position >= 0) & (position <= 1)
        return z, sum_event(torch.where(inside, self._log_slope(z, of, noise, raw), -torch.inf))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> reals in [-1/2, 1/2] (B, C, H, W), log-det (B,)."""
        n = self.probability.shape[1]
        low, high = _rank(z), _rank(-z)
        # The level from the end that is nearer, whose shares add up without rounding to one.
        share = self._share()
        up, down = self._search(share, low), n - 1 - self._search(share.flip(1), high)
        level = torch.where(low < high, up, down)
        of = self._at(level)
        # Ranks are kept so far from the ends of the level that rounding does not take them into the next one.
        eps = torch.finfo(z.dtype).eps
        u = torch.where(low < high, (low - of.below) / of.share, 1 - (high - of.above) / of.share)
        u = u.clamp(eps, 1 - eps)
        noise = _normal_number(u, 1 - u)
        raw = (noise - of.shift) * (-of.log_scale).exp()
        x = (level + _rank(raw).clamp(n * eps, 1 - n * eps)) / n - 0.5
        return x, -sum_event(self._log_slope(z, of, noise, raw))

    def extra_repr(self) -> str:
        channels, n = self.probability.shape
        return f"channels={channels}, grey_levels={n}"

    def _log_slope(self, z: Tensor, of: "_Levels", noise: Tensor, raw: Tensor) -> Tensor:
        n = self.probability.shape[1]
        within = of.log_scale + 0.5 * (raw.square() - noise.square())
        return (of.share * n).log() + 0.5 * z.square() + HALF_LOG_2_PI + within

    def _share(self) -> Tensor:
        return (self.probability.log() + self.log_ratio).softmax(1)

    def _level(self, x: Tensor) -> Tensor:
        """int64, of x's shape; beyond an end, the last one, and the first of what is no number."""
        n = self.probability.shape[1]
        return ((x.detach() + 0.5) * n).floor().clamp(0, n - 1).nan_to_num(0).long()

    def _at(self, level: Tensor) -> "_Levels":
        """What belongs to the levels (B, C, H, W) of values, the network's part included."""
        h = self._share()
        below, above = h.cumsum(1) - h, h.flip(1).cumsum(1).flip(1) - h
        channels, n = h.shape
        at = (level + n * torch.arange(channels, device=level.device)[:, None, None]).flatten()
        # index_select, whose derivative adds up in the same order every time; that of take does not.
        tables = (h, below, above, self.shift, self.log_scale)
        of = _Levels(*(table.flatten().index_select(0, at).view_as(level) for table in tables))
        if self.network is not None:
            middle = _normal_number(of.below + of.share / 2, of.above + of.share / 2).detach()
            shift, log_scale = self.network(middle).to(h.dtype).unflatten(1, (-1, 2)).unbind(2)
            of = of._replace(shift=of.shift + shift, log_scale=of.log_scale + log_scale)
        return of._replace(
            shift=of.shift.clamp(-LARGEST_SHIFT, LARGEST_SHIFT),
            log_scale=of.log_scale.clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE),
        )

    def _search(self, h: Tensor, rank: Tensor) -> Tensor:
        """How many levels have their end at or below that rank: (B, C, H, W), at most n - 1."""
        b, c, *space = rank.shape
        ranks = rank.detach().transpose(0, 1).reshape(c, -1)
        found = torch.searchsorted(h.cumsum(1), ranks, right=True).clamp(max=h.shape[1] - 1)
        return found.view(c, b, *space).transpose(0, 1)


def _rank(z: Tensor) -> Tensor:
    """Of a normal number. By erfc, not ndtr, which has no digits left in float32 below -5."""
    return 0.5 * torch.erfc(-z * math.sqrt(0.5))


def _normal_number(low: Tensor, high: Tensor) -> Tensor:
    """Of rank ``low`` = 1 - ``high``, each exact where it is small."""
    return torch.special.ndtri(torch.minimum(low, high)) * torch.where(low < high, 1, -1)
