"""A lock between processes, on one machine or on several that share the disk."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def file_lock(path: Path, waiting_for: str) -> Iterator[bool]:
    """Hold the lock of a file, which stays where it is afterwards. The system frees it when the process dies.

    Args:
        path: the file, in a folder that exists.
        waiting_for: completes the line "waiting for ...", printed when another process holds the lock.

    Yields:
        False without the lock where it cannot be had: the file system has none, or the file is another user's.
    """
    # A soft lock, which filelock takes by default where there is no flock, would outlive a killed process.
    lock = FileLock(path, fallback_to_soft=False)
    held = True
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"waiting for {waiting_for}", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError:
        held = False
    try:
        yield held
    finally:
        lock.release()
