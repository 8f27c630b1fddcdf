"""A message as a stack of numbers: what was pushed last is popped first (Duda 2009, asymmetric numeral systems)."""

import math
from functools import cache

import constriction
import numpy as np
import torch
from torch import Tensor

from glow.codec.tables import BIN, END, bin_probabilities

PRECISION = 24
"""Bits of every probability. A number that is uniform over n <= 2^12 costs at most 2e-4 bits more than log2(n)."""
CHUNKS = 8
"""What is popped and pushed of many values is in so many turns: a stack must hold what one pops, and not what all do."""
WORD = 32
ESCAPED = 2 * END * BIN
"""The symbol of a latent beyond all bins, which follows in pieces of 16 bits."""
PIECES = 4
LARGEST = 2**44
"""Of what is scaled: times a ratio it fits into 64 bits."""

uniform = constriction.stream.model.Uniform


class NotCodableError(Exception):
    """The stack holds fewer bits than are borrowed, or a value left the range in which steps are exact."""


class Stack:
    """Integers in, integers out; every ``pop`` is undone by a ``push`` of what it gave, and the reverse, to the last bit.

    Popping from a stack that holds bits enough gives numbers of the distribution that is asked for: it is how bits are
    "borrowed" (Townsend et al. 2019, section 2.2).

    Args:
        words: uint32, what ``words()`` of another stack gave.

    >>> stack = Stack(np.array([1, 2, 3, 4], dtype=np.uint32))
    >>> x = stack.pop(10, 3)
    >>> stack.push(x, 10)
    >>> stack.words().tolist()
    [1, 2, 3, 4]
    """

    def __init__(self, words: np.ndarray | None = None) -> None:
        self._coder = constriction.stream.stack.AnsCoder(words)

    def words(self) -> np.ndarray:
        """All that it holds, uint32, the bottom first."""
        return self._coder.get_compressed()

    def copy(self) -> "Stack":
        """Another one that holds the same."""
        other = Stack()
        other._coder = self._coder.clone()
        return other

    def restore(self, copy: "Stack") -> None:
        """Hold again what it held when the copy was made."""
        self._coder = copy._coder

    def __len__(self) -> int:
        """In words of 32 bits."""
        return self._coder.num_words()

    def push(self, values: Tensor, sizes: Tensor | int) -> None:
        """Integers in 0 .. size-1, each uniform over its size, which is one for all or of the values' shape."""
        if isinstance(sizes, int):
            if sizes > 1:
                self._coder.encode_reverse(_numbers(values), uniform(sizes))
            return
        if not bool((many := sizes > 1).all()):
            values, sizes = values[many], sizes[many]
        self._coder.encode_reverse(_numbers(values), uniform(), _numbers(sizes))

    def pop(self, sizes: Tensor | int, n: int = 0) -> Tensor:
        """What was pushed: int64 of the sizes' shape, or ``n`` of them where the size is one for all."""
        if isinstance(sizes, int):
            if sizes == 1:
                return torch.zeros(n, dtype=torch.int64)
            return _tensor(self._coder.decode(uniform(sizes), n))
        if bool((many := sizes > 1).all()):
            return _tensor(self._coder.decode(uniform(), _numbers(sizes))).view(sizes.shape)
        found = torch.zeros(sizes.shape, dtype=torch.int64)
        found[many] = _tensor(self._coder.decode(uniform(), _numbers(sizes[many])))
        return found

    def borrow(self, sizes: Tensor | int, n: int = 0) -> Tensor:
        """``pop`` of what was pushed as something else.

        Raises:
            NotCodableError: the stack may hold fewer bits, of which the missing ones would be zeros. It is as before.
        """
        bits = n * math.log2(sizes) if isinstance(sizes, int) else float(sizes.double().log2().sum())
        if bits > len(self) * WORD:
            raise NotCodableError
        return self.pop(sizes, n)

    def push_normal(self, z: Tensor, bits: int) -> None:
        """Integers in units of 2^-bits, normal numbers by their nature, and none refused."""
        z = z.flatten().cpu()
        symbol = bin_of(z, bits)
        beyond = z[symbol == ESCAPED] + 2 ** (16 * PIECES - 2)
        for _ in range(PIECES):
            self.push(beyond % 2**16, 2**16)
            beyond = beyond >> 16
        self.push(z[symbol < ESCAPED] & _low(bits), _low(bits) + 1)
        self._coder.encode_reverse(_numbers(symbol), _bins())

    def pop_normal(self, n: int, bits: int) -> Tensor:
        """``n`` of them, int64."""
        symbol = _tensor(self._coder.decode(_bins(), n))
        inside = symbol < ESCAPED
        z = torch.empty(n, dtype=torch.int64)
        low = self.pop(_low(bits) + 1, int(inside.sum()))
        z[inside] = (symbol[inside] - END * BIN) * (_low(bits) + 1) + low
        beyond = torch.zeros(n - len(low), dtype=torch.int64)
        for _ in range(PIECES):
            beyond = (beyond << 16) + self.pop(2**16, len(beyond))
        z[~inside] = beyond - 2 ** (16 * PIECES - 2)
        return z


def scale(stack: Stack, x: Tensor, ratio: Tensor, bits: int) -> Tensor:
    r"""x times ratio / 2^bits, rounded down, exactly undone by ``unscale``: int64 (...), with ratios of this shape.

    What rounding loses is pushed, and the numbers that decide it are borrowed: it pays :math:`\log_2(2^{bits} / ratio)` bits a
    value (Zhang et al. 2021, iFlow, section 3.2).

    Raises:
        NotCodableError: a value of ``LARGEST`` or more, or the stack has too few bits to borrow.
    """
    if x.numel() and x.abs().max() >= LARGEST:
        raise NotCodableError
    found = []
    for part, r in zip(*_turns(x, ratio), strict=True):
        y = part * r + stack.borrow(r)
        stack.push(y & (2**bits - 1), 2**bits)
        found.append(y >> bits)
    return torch.cat(found).view(x.shape).to(x.device)


def unscale(stack: Stack, z: Tensor, ratio: Tensor, bits: int) -> Tensor:
    """The inverse of ``scale``."""
    found = []
    for part, r in reversed(list(zip(*_turns(z, ratio), strict=True))):
        y = (part << bits) + stack.pop(2**bits, len(part))
        x = torch.div(y, r, rounding_mode="floor")
        stack.push(y - r * x, r)
        found.append(x)
    return torch.cat(found[::-1]).view(z.shape).to(z.device)


def _turns(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    return [t.flatten().cpu().tensor_split(CHUNKS) for t in tensors]


def bin_of(z: Tensor, bits: int) -> Tensor:
    """The symbol of integers in units of 2^-bits: that of their bin, or ``ESCAPED``."""
    symbol = torch.div(z, _low(bits) + 1, rounding_mode="floor") + END * BIN
    return torch.where((symbol >= 0) & (symbol < ESCAPED), symbol, ESCAPED)


def _low(bits: int) -> int:
    """The largest number of a latent's place within its bin."""
    return 2**bits // BIN - 1


@cache
def _bins() -> constriction.stream.model.Categorical:
    counts = bin_probabilities(PRECISION)
    return constriction.stream.model.Categorical(counts / 2.0**PRECISION, perfect=False)


def _numbers(x: Tensor) -> np.ndarray:
    return x.flatten().cpu().numpy().astype(np.int32)


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.int64))
