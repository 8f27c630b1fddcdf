"""A file that one process writes and all that want it map, so that a machine holds its bytes once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import ENOSPC
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import torch
from torch import Tensor


def shared_file(path: Path, size: int, write: Callable[[BinaryIO], None], older: str) -> Tensor:
    """The bytes of a file, uint8 (size,), written first if the file is not there.

    The pages are the system's, read when they are touched and shared by all processes of the machine; what is
    written to the tensor stays in this process. A file appears under its name only when it is complete. Of
    several processes that want to write it, on one machine or on several that share the disk, one does and the
    others wait; where the disk has no locks, all do and one of the equal files stays.

    Args:
        path: the file; its name must say everything that its bytes depend on.
        size: its length in bytes.
        write: writes them.
        older: a pattern of the names in the same folder that this file makes useless. They are removed unless
            some process still has them mapped, for which each holds a shared lock.

    Raises:
        OSError: the file can neither be read nor written.
    """
    if (found := _mapped(path, size)) is not None:
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(path.parent / ".glow-lock", f"another process to write {path.parent}") as alone:
        if (found := _mapped(path, size)) is not None:
            return found
        if alone:  # then these were left by processes that died
            for left in path.parent.glob(f"{older}.partial"):
                left.unlink()
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))
        partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
        try:
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    for old in path.parent.glob(older):
        if old != path and old.suffix != ".partial":
            _remove_unused(old)
    written = _mapped(path, size)
    if written is None:
        raise OSError(f"{path} does not hold the {size} bytes that were written")
    return written


@contextmanager
def one_at_a_time(lock: Path, what: str) -> Iterator[bool]:
    """Wait until no other process is inside, on this machine or another that shares the disk.

    Yields:
        False where that cannot be had: the disk has no locks, or the lock file is another user's.
    """
    try:
        file = lock.open("ab")
    except OSError:
        yield False
        return
    with file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
            alone = True
        except BlockingIOError:
            print(f"waiting for {what}", file=sys.stderr, flush=True)
            flock(file, LOCK_EX)
            alone = True
        except OSError:
            alone = False
        yield alone


def _mapped(path: Path, size: int) -> Tensor | None:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != size:
                return None
            with suppress(OSError):
                flock(file, LOCK_SH)
            # The map duplicates the descriptor, so that the lock lasts as long as the map. It is private, so
            # that the tensor may be written to.
            pages = mmap(file.fileno(), size, access=ACCESS_COPY)
    except FileNotFoundError:
        return None
    return torch.frombuffer(pages, dtype=torch.uint8)


def _remove_unused(path: Path) -> None:
    """On a network's disk a process of another machine that has a removed file mapped would die of it."""
    with suppress(OSError), path.open("r+b") as file:
        flock(file, LOCK_EX | LOCK_NB)
        path.unlink()
