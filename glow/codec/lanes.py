"""Blocks of images in lanes, which are coded side by side, each on a stack of its own."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import torch

BLOCK = 1024
"""Images of a block."""
LANES = 2
"""Block i is of lane i modulo LANES."""


def count(n: int) -> int:
    """The number of blocks of n images."""
    return math.ceil(n / BLOCK)


def bounds(block: int, n: int) -> tuple[int, int]:
    """The first of a block's images, and the one behind its last, of n."""
    return block * BLOCK, min((block + 1) * BLOCK, n)


def rounds(n: int) -> list[range]:
    """The blocks of n images, as many at a time as there are lanes."""
    blocks = range(count(n))
    return [blocks[i : i + LANES] for i in blocks[::LANES]]


@contextmanager
def side_by_side() -> Iterator[tuple[Callable[..., Iterator[Any]], Callable[[], None]]]:
    """A ``map`` for the blocks of a round, and what they call now and then: it ends them when something else went wrong."""
    threads, over = torch.get_num_threads(), Event()

    def check() -> None:
        if over.is_set():
            raise CancelledError

    share = max(1, threads // LANES)
    with ThreadPoolExecutor(min(LANES, threads), "lane", torch.set_num_threads, (share,)) as pool:
        try:
            yield pool.map, check
        finally:
            over.set()
            torch.set_num_threads(threads)  # also of threads to come
