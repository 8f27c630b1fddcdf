"""A message as a stack of numbers: what was pushed last is popped first (Duda 2009, asymmetric numeral systems)."""

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
STATE = 2
"""Words of the coder's state, which is full while there are others below it."""
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
                self._encode(_numbers(values), sizes)
            return
        if not bool((many := sizes > 1).all()):
            values, sizes = values[many], sizes[many]
        self._encode(_numbers(values), _numbers(sizes))

    def pop(self, sizes: Tensor | int, n: int = 0) -> Tensor:
        """What was pushed: int64 of the sizes' shape, or ``n`` of them where the size is one for all."""
        if isinstance(sizes, int):
            return torch.zeros(n, dtype=torch.int64) if sizes == 1 else _tensor(self._decode(sizes, n))
        sizes = sizes.cpu()
        if bool((many := sizes > 1).all()):
            return _tensor(self._decode(_numbers(sizes))).view(sizes.shape)
        found = torch.zeros(sizes.shape, dtype=torch.int64)
        found[many] = _tensor(self._decode(_numbers(sizes[many])))
        return found

    def borrow(self, sizes: Tensor | int, n: int = 0) -> Tensor:
        """``pop`` of what was pushed as something else.

        Raises:
            NotCodableError: the stack held fewer bits; it is to be restored.
        """
        found = self.pop(sizes, n)
        self._check_borrowed()
        return found

    def _encode(self, values: np.ndarray, sizes: np.ndarray | int) -> None:
        if isinstance(sizes, int):
            self._coder.encode_reverse(values, uniform(sizes))
        else:
            self._coder.encode_reverse(values, uniform(), sizes)

    def _decode(self, sizes: np.ndarray | int, n: int = 0) -> np.ndarray:
        return (
            self._coder.decode(uniform(sizes), n)
            if isinstance(sizes, int)
            else self._coder.decode(uniform(), sizes)
        )

    def _check_borrowed(self) -> None:
        if len(self) < STATE:  # below its state there was nothing: zeros were given
            raise NotCodableError

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
    y, ratios = _array(x), _array(ratio)
    if len(y) and max(y.max(), -y.min()) >= LARGEST:
        raise NotCodableError
    y = y * ratios
    for part, r in zip(*_turns(y, ratios.astype(np.int32)), strict=True):
        part += stack._decode(r)
        stack._check_borrowed()
        stack._encode((part & (2**bits - 1)).astype(np.int32), 2**bits)
    return torch.from_numpy(y >> bits).view(x.shape).to(x.device)


def unscale(stack: Stack, z: Tensor, ratio: Tensor, bits: int) -> Tensor:
    """The inverse of ``scale``."""
    x = _array(z) << bits
    for part, r in reversed(list(zip(*_turns(x, _array(ratio).astype(np.int32)), strict=True))):
        part += stack._decode(2**bits, len(part))
        quotient = part // r
        stack._encode((part - quotient * r).astype(np.int32), r)
        part[:] = quotient
    return torch.from_numpy(x).view(z.shape).to(z.device)


def _turns(*arrays: np.ndarray) -> list[list[np.ndarray]]:
    return [np.array_split(a, CHUNKS) for a in arrays]


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


def _array(x: Tensor) -> np.ndarray:
    return x.flatten().cpu().numpy()


def _numbers(x: Tensor) -> np.ndarray:
    return _array(x).astype(np.int32)


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.int64))
