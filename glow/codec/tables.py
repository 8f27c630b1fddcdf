"""Functions of real numbers that are the same on every machine: decimal arithmetic rounded once, and IEEE operations.

A library's ``exp`` may differ in its last bit between two processors. What a decoder repeats must not.
"""

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor

DIGITS = 40
END = 8
"""The normal distribution is cut to [-END, END], where its distribution function is 0 and 1."""
BIN = 64
"""Bins per unit, within which the density is taken as constant: it costs 1e-5 bits a value."""
PIECES = 2**12
"""Of an octave, within which ``exponential`` and ``logarithm`` are linear: they are right to 1e-8."""
MANTISSA = 52
LN_2 = 0.6931471805599453


def exact(function: Callable[[Decimal], Decimal], values: Tensor) -> Tensor:
    """A function in decimal arithmetic of real numbers, rounded to float64."""
    with localcontext(prec=DIGITS):
        found = [float(function(Decimal(v))) for v in values.detach().cpu().double().flatten().tolist()]
    return torch.tensor(found, dtype=torch.float64).view(values.shape)


def exp(values: Tensor) -> Tensor:
    """float64, of the values' shape."""
    return exact(Decimal.exp, values)


def sigmoid(values: Tensor) -> Tensor:
    """float64, of the values' shape."""
    return exact(lambda v: 1 / (1 + (-v).exp()), values)


@cache
def normal_ranks() -> Tensor:
    """The normal distribution function at the ends of the bins, from -END to END: float64 (2 END BIN + 1,)."""
    with localcontext(prec=DIGITS):
        density = 1 / (2 * Decimal("3.1415926535897932384626433832795028841971")).sqrt()
        upper = []
        for i in range(END * BIN + 1):
            z = Decimal(i) / BIN
            term = total = z
            k = 1
            while term > Decimal(10) ** -DIGITS:
                k += 2
                term = term * z * z / k
                total += term
            upper.append(Decimal("0.5") + density * (-z * z / 2).exp() * total)
        ranks = [float(r) for r in [*(1 - u for u in reversed(upper)), *upper[1:]]]
        return torch.tensor([0.0, *ranks[1:-1], 1.0], dtype=torch.float64)


def rank(z: Tensor) -> Tensor:
    """The distribution function of normal numbers, linear within the bins; monotone also in its last bit."""
    return _between(normal_ranks().to(z.device), (z * BIN + END * BIN).clamp(0, 2 * END * BIN))


def normal_number(r: Tensor) -> Tensor:
    """The normal number of ranks from 0 to 1, the inverse of ``rank``; monotone also in its last bit."""
    ranks = normal_ranks().to(r.device)
    i = (torch.searchsorted(ranks, r, right=True) - 1).clamp(0, 2 * END * BIN - 1)
    low, high = ranks[i], ranks[i + 1]
    within = ((r - low) / (high - low)).clamp(0, 1)
    return (i - END * BIN + within) / BIN


@cache
def bin_probabilities(bits: int) -> np.ndarray:
    """Of the normal numbers' bins, and of being beyond them all: integers that sum to 2^bits, each at least one.

    The entropy coder makes its own table of these, which differs in the last units of the rarest.
    """
    shares = normal_ranks().diff() * 2**bits
    counts = np.maximum(1, np.floor(shares.numpy())).astype(np.int64)
    counts[len(counts) // 2] += 2**bits - counts.sum() - 1
    return np.append(counts, 1)


def power_of_two_above(value: float) -> int:
    """The least e with value < 2^e, exactly."""
    return math.frexp(value)[1]


@cache
def _octave() -> tuple[Tensor, Tensor]:
    """2^i/PIECES and log(1 + i/PIECES), i = 0 .. PIECES."""
    i = torch.arange(PIECES + 1).double() / PIECES
    return exact(lambda v: 2**v, i), exact(lambda v: (1 + v).ln(), i)


def exponential(v: Tensor) -> Tensor:
    """exp of float64 numbers from -700 to 700; monotone up to its last bits."""
    at = v * (1 / LN_2)
    octave = at.floor()
    i = (at - octave) * PIECES
    fraction = _between(_octave()[0].to(v.device), i)
    return fraction * ((octave.long() + 1023) << MANTISSA).view(torch.float64)


def logarithm(v: Tensor) -> Tensor:
    """log of positive float64 numbers, none of them subnormal; monotone up to its last bits."""
    bits = v.view(torch.int64)
    octave = (bits >> MANTISSA) - 1023
    i = (bits & (2**MANTISSA - 1)).double() * (PIECES / 2**MANTISSA)
    return octave.double() * LN_2 + _between(_octave()[1].to(v.device), i)


def _between(table: Tensor, i: Tensor) -> Tensor:
    """The piecewise linear function that is table[i], growing, at whole numbers i from 0 to len(table) - 1; monotone also in
    its last bit."""
    whole = i.floor().clamp(max=len(table) - 2)
    low, high = table[whole.long()], table[whole.long() + 1]
    return torch.minimum(low + (i - whole) * (high - low), high)
