r"""Mu-law companding: levels that are fine near silence and coarse where it is loud (van den Oord et al. 2016, section 2.2).

.. math:: y = sign(x) \ln(1 + \mu |x|) / \ln(1 + \mu), \qquad \mu = 255

of sound x in [-1, 1]; y, in [-1, 1], is cut into levels of equal width.
"""

import math

import torch
from torch import Tensor

MU = 255
LEVELS = MU + 1


def compand(x: Tensor) -> Tensor:
    """Sound (...) -> its levels 0 .. 255, uint8 (...); beyond [-1, 1] the first and the last.

    >>> compand(torch.tensor([-2.0, -0.01, 0.0, 0.01, 1.0])).tolist()
    [0, 98, 128, 157, 255]
    """
    y = x.sign() * (MU * x.abs()).log1p() / math.log1p(MU)
    return ((y + 1) / 2 * LEVELS).floor().clamp(0, LEVELS - 1).to(torch.uint8)


def expand(y: Tensor) -> Tensor:
    """The sound in [-1, 1] of companded reals in [-1, 1]."""
    return y.sign() * (y.abs() * math.log1p(MU)).expm1() / MU


def sound(levels: Tensor, grey_levels: int) -> Tensor:
    """Levels 0 .. grey_levels-1 (...), of equal width on the companded axis -> the sound in their middle, float32 (...)."""
    return expand((2 * levels.float() + 1) / grey_levels - 1)
