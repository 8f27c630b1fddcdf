"""Blocks of images in lanes, which are coded side by side, each on a stack of its own.

Every lane has a process. In threads, the many small operations of one lane would wait for those of the other: only one thread
at a time runs Python.
"""

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from threading import Thread
from typing import Any

import torch

from glow.errors import UsageError

BLOCK = 1024
"""Images of a block."""
LANES = 2
"""Block i is of lane i modulo LANES."""

Report = Callable[[int, int], None]
"""Called with the images of a block that are done, and the bits on the lane's stack."""


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


class SideBySide:
    """A context whose ``map`` calls a function for the blocks of a round at the same time.

    The processes are forks, which need no import and no copy of the model. Where there is one block, one thread, a GPU or no
    fork, the calls are made one after another in this process.

    Args:
        work: called with a ``Report`` and a block's arguments; these and what it returns can be pickled.
        n: images of all blocks.
        device: where it computes.
        progress: called now and then with the sums of what the lanes report, once there is something.
    """

    def __init__(self, work: Callable[..., Any], n: int, device: torch.device, progress: Report) -> None:
        self._work, self._progress = work, progress
        threads = torch.get_num_threads()
        self._pool: ProcessPoolExecutor | None = None
        self._state: Any = [0] * (2 * LANES)
        if sys.platform == "linux" and threads > 1 and count(n) > 1 and device.type == "cpu":
            context = multiprocessing.get_context("fork")
            self._state, self._over = context.Array("q", 2 * LANES, lock=False), context.Event()
            start = (self._call, os.getpid(), max(1, threads // LANES))
            self._pool = ProcessPoolExecutor(LANES, context, _start, start)

    def __enter__(self) -> "SideBySide":
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._over.set()
            self._pool.shutdown()

    def map(self, jobs: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """What the function returns for each job, the tuple of a block's arguments, one job a lane."""
        for i in range(2 * LANES):
            self._state[i] = 0
        if self._pool is None:
            yield from (self._call(lane, job) for lane, job in enumerate(jobs))
            return
        futures = [self._pool.submit(_call, lane, job) for lane, job in enumerate(jobs)]
        while wait(futures, 0.2).not_done:
            self._tell()
        self._tell()
        try:
            yield from (future.result() for future in futures)
        except BrokenProcessPool as error:
            raise UsageError("a process was ended from outside, perhaps for want of memory") from error

    def _call(self, lane: int, job: tuple[Any, ...]) -> Any:
        def report(done: int, bits: int) -> None:
            self._state[2 * lane], self._state[2 * lane + 1] = done, bits
            if self._pool is None:
                self._tell()
            elif self._over.is_set():  # something else went wrong
                raise CancelledError

        return self._work(report, *job)

    def _tell(self) -> None:
        if done := sum(self._state[::2]):
            self._progress(done, sum(self._state[1::2]))


_of_parent: Callable[[int, tuple[Any, ...]], Any]
"""In a lane's process, what its parent wants to have called."""


def _call(lane: int, job: tuple[Any, ...]) -> Any:
    return _of_parent(lane, job)


def _start(call: Callable[[int, tuple[Any, ...]], Any], parent: int, threads: int) -> None:
    global _of_parent
    _of_parent = call
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's, which then ends this process
    Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
