"""Files that are whole or not there."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from glow.errors import DiskFullError

PREVIOUS = {"last.ckpt": "previous.ckpt"}
"""Files whose last state is kept, under another name, when they are written anew."""


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes under another name, waits until the disk has it, renames: a kill or a power cut leaves the old file or the new.

    Lightning's own writes to the temporary folder of the system and moves, which is a copy where that is another disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises ``DiskFullError`` naming the file; what was there before is left as it was."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        previous = path.with_name(PREVIOUS[path.name]) if path.name in PREVIOUS else None
        replace(path, buffer.getbuffer(), previous)


def replace(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Write a file so that it is never half there; the one that was there becomes ``previous``, if that is given."""
    new = path.with_name(f"{path.name}.new")
    with told_when_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with new.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except Exception:
            with suppress(OSError):
                new.unlink()
            raise
        if previous is not None and path.is_file():
            _second_name(path, previous)
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the names, too
        finally:
            os.close(folder)


def _second_name(path: Path, name: Path) -> None:
    """So that ``path`` is there all the time; file systems without links have a moment with ``name`` alone."""
    link = name.with_name(f"{name.name}.new")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
    except OSError:
        path.replace(name)
    else:
        link.replace(name)
        link.unlink(missing_ok=True)  # renaming to another name of the same file does nothing


@contextmanager
def told_when_full(path: Path) -> Iterator[None]:
    """Name the file or folder that a full disk, or a used-up quota, cuts short, whatever a library makes of it."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                said = (cause.strerror or "").lower()
                raise DiskFullError(f"{cause.filename or path} could not be written: {said}") from error
            cause = cause.__cause__ or cause.__context__
        raise
