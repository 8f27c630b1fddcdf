"""Scales as ratios of integers, and tables of them for what networks say."""

from functools import cache

import torch
from torch import Tensor

from glow.bijections.elementwise import SCALE_OFFSET
from glow.codec.fixed import BITS, rounded
from glow.codec.tables import exp, sigmoid

SCALE_BITS = 12
"""Scales are integers in units of 2^-SCALE_BITS, two at least and below 2^MOST_SCALE_BITS."""
MOST_SCALE_BITS = 18
TABLE_BITS = 8
"""Scales are tables over numbers in units of 2^-TABLE_BITS, from -TABLE_END to TABLE_END."""
TABLE_END = 16


def ratios(factor: Tensor) -> Tensor:
    """Scales as integers, int64."""
    return rounded(factor, SCALE_BITS).clamp(2, 2**MOST_SCALE_BITS - 1).long()


@cache
def sigmoid_scales(min_scale: float) -> Tensor:
    """Of ``Affine``, for numbers in units of 2^-TABLE_BITS."""
    return ratios(min_scale + (1 - min_scale) * sigmoid(table_points() + SCALE_OFFSET))


@cache
def exponential_scales() -> Tensor:
    """Of a prior, for log standard deviations in units of 2^-TABLE_BITS."""
    return ratios(exp(-table_points()))


def table_points() -> Tensor:
    """The numbers that tables are over, float64."""
    return torch.arange(-TABLE_END * 2**TABLE_BITS, TABLE_END * 2**TABLE_BITS + 1).double() / 2**TABLE_BITS


def looked_up(table: Tensor, h: Tensor) -> Tensor:
    """Ratios (...) of integers (...) in units of 2^-BITS."""
    end = TABLE_END * 2**TABLE_BITS
    return table[nearest(h).clamp(-end, end) + end]


def nearest(h: Tensor) -> Tensor:
    """From units of 2^-BITS to the nearest of 2^-TABLE_BITS."""
    return (h + 2 ** (BITS - TABLE_BITS - 1)) >> (BITS - TABLE_BITS)
