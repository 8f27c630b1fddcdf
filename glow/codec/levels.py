"""From grey levels to integers in units of 2^-BITS: which of a level's places, the stack decides."""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from glow.bijections import Gaussianize
from glow.bijections.gaussianize import LARGEST_LOG_SCALE, LARGEST_SHIFT
from glow.codec.fixed import BITS, FixedNet, rounded
from glow.codec.ratios import SCALE_BITS, TABLE_BITS, nearest
from glow.codec.stack import CHUNKS, PRECISION, Stack, scale, unscale
from glow.codec.tables import END, exp, normal_number, rank


class UniformNoise(nn.Module):
    """A place that is uniform in the level, at (q + u) / levels - 1/2."""

    ratio: Tensor

    def __init__(self, grey_levels: int) -> None:
        super().__init__()
        self.places = 2 ** (BITS - math.ceil(math.log2(grey_levels)))
        self.register_buffer(
            "ratio", torch.tensor(round(2 ** (BITS + SCALE_BITS) / (grey_levels * self.places)))
        )

    def forward(self, stack: Stack, q: Tensor) -> Tensor:
        """Grey levels (B, H, W, C) -> int64 of the same shape."""
        x = q.long() * self.places + stack.borrow(self.places, q.numel()).view(q.shape).to(q.device)
        if self.ratio != 2**SCALE_BITS:
            x = scale(stack, x, self.ratio.expand_as(x), SCALE_BITS)
        return x - 2 ** (BITS - 1)

    def inverse(self, stack: Stack, x: Tensor) -> Tensor:
        """The grey levels."""
        x = x + 2 ** (BITS - 1)
        if self.ratio != 2**SCALE_BITS:
            x = unscale(stack, x, self.ratio.expand_as(x), SCALE_BITS)
        q = torch.div(x, self.places, rounding_mode="floor")
        stack.push(x - q * self.places, self.places)
        return q


class Marginals(nn.Module):
    """``Gaussianize``: a level's places are those of its interval of normal numbers, with the probabilities of its noise."""

    ends: Tensor
    below: Tensor
    share: Tensor
    middle: Tensor
    shift: Tensor
    log_scale: Tensor
    slopes: Tensor

    def __init__(self, layer: Gaussianize, name: str) -> None:
        super().__init__()
        weight = layer.probability.double().cpu() * exp(layer.log_ratio)
        channels, n = weight.shape
        below = torch.zeros(channels, n + 1, dtype=torch.float64)
        for v in range(n):  # one after another: a library's sums may go in another order
            below[:, v + 1] = below[:, v] + weight[:, v]
        below = below / below[:, -1:]
        ends = rounded(normal_number(below), BITS).long()
        ends[:, 0], ends[:, n] = -END * 2**BITS, END * 2**BITS
        place = torch.arange(n + 1)  # one place at least for every level
        ends = torch.maximum(ends, place - END * 2**BITS).minimum(END * 2**BITS - (n - place))
        ends = (ends - place).cummax(1).values + place
        self.register_buffer("ends", ends)
        self.register_buffer("below", below[:, :-1].contiguous())
        self.register_buffer("share", below.diff(dim=1))
        self.register_buffer(
            "middle", rounded(normal_number((below[:, 1:] + below[:, :-1]) / 2), BITS).long()
        )
        self.register_buffer("shift", rounded(layer.shift, BITS).long())
        self.register_buffer("log_scale", rounded(layer.log_scale, BITS).long())
        self.register_buffer("slopes", _slopes())
        self.network = None if layer.network is None else FixedNet(layer.network, BITS, name)

    def forward(self, stack: Stack, q: Tensor) -> Tensor:
        """Grey levels (B, H, W, C) -> int64 of the same shape."""
        found = []
        for noise in self._noise(q.long()):
            number = stack.borrow(2**PRECISION, len(noise.first)).to(q.device)
            place, numbers_below = noise.place_of(number)
            stack.push(number - numbers_below, noise.numbers_below(place + 1) - numbers_below)
            found.append(place)
        return torch.cat(found).view(q.shape)

    def inverse(self, stack: Stack, x: Tensor) -> Tensor:
        """The grey levels."""
        channels = [
            torch.searchsorted(ends, x[..., c].contiguous(), right=True) - 1
            for c, ends in enumerate(self.ends)
        ]
        q = torch.stack(channels, dim=-1).clamp(0, self.share.shape[1] - 1)
        turns = list(zip(self._noise(q), x.flatten().tensor_split(CHUNKS), strict=True))
        for noise, place in reversed(turns):
            numbers_below = noise.numbers_below(place)
            number = numbers_below + stack.pop(noise.numbers_below(place + 1) - numbers_below).to(x.device)
            stack.push(number, 2**PRECISION)
        return q

    def _noise(self, q: Tensor) -> list["_Noise"]:
        """Of the values' levels, in as many turns as the stack takes."""
        channel = torch.arange(q.shape[-1], device=q.device)
        shift, log_scale = self.shift[channel, q], self.log_scale[channel, q]
        if self.network is not None:
            h = self.network(self.middle[channel, q])
            shift, log_scale = shift + h[..., 0::2], log_scale + h[..., 1::2]
        steps = len(self.slopes) // 2
        slope = self.slopes[nearest(log_scale).clamp(-steps, steps) + steps]
        shift = (shift.double() / 2**BITS).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
        fields = (
            self.ends[channel, q],
            self.ends[channel, q + 1],
            self.below[channel, q],
            self.share[channel, q],
        )
        split = [field.flatten().tensor_split(CHUNKS) for field in (*fields, shift, slope)]
        return [_Noise(*turn) for turn in zip(*split, strict=True)]


@cache
def _slopes() -> Tensor:
    """Factors of noise for log-scales in units of 2^-TABLE_BITS."""
    steps = int(LARGEST_LOG_SCALE) * 2**TABLE_BITS
    return exp(torch.arange(-steps, steps + 1).double() / -(2**TABLE_BITS))


class _Noise(NamedTuple):
    """The distribution of the places of values' levels, in numbers that sum to 2^PRECISION; all (N,)."""

    first: Tensor
    last: Tensor
    below: Tensor
    share: Tensor
    shift: Tensor
    slope: Tensor

    def place_of(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """The place whose share of the numbers has this one, and how many numbers are below that place."""
        within = rank(normal_number((number + 0.5) / 2**PRECISION) / self.slope + self.shift)
        place = (normal_number(self.below + self.share * within) * 2**BITS).floor().long()
        place = torch.minimum(torch.maximum(place, self.first), self.last - 1)
        below = self.numbers_below(place)
        wrong = (below > number) | (self.numbers_below(place + 1) <= number)
        if wrong.any():  # rounding: on an edge between two places, or far outside, where many have no number
            few = _Noise(*(field[wrong] for field in self))
            place[wrong] = few._search(number[wrong])
            below = self.numbers_below(place)
        return place, below

    def _search(self, number: Tensor) -> Tensor:
        low, high = self.first, self.last
        for _ in range(int((high - low).max()).bit_length()):
            middle = (low + high) >> 1
            above = self.numbers_below(middle) <= number
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return low

    def numbers_below(self, place: Tensor) -> Tensor:
        """How many numbers belong to the places below: monotone, 0 at the first and 2^PRECISION at the last."""
        within = ((rank(place.double() / 2**BITS) - self.below) / self.share).clamp(0, 1)
        uniform = rank((normal_number(within) - self.shift) * self.slope)
        numbers = (uniform * 2**PRECISION).floor().long()
        numbers = torch.where(place <= self.first, 0, numbers)
        return torch.where(place >= self.last, 2**PRECISION, numbers)
