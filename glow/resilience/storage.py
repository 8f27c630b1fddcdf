"""Files that are written as a whole or not at all."""

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
"""Files whose former content is kept under another name when they are replaced."""


class DurableCheckpointIO(TorchCheckpointIO):
    """Write under another name, wait for the disk, rename: after a kill or a power cut the old file or the new one is there.

    Lightning's own plugin writes to the system's temporary folder and moves the file, which is a copy if that is another
    disk.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises ``DiskFullError``, which names the file; the file that was there before is left unchanged."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        previous = path.with_name(PREVIOUS[path.name]) if path.name in PREVIOUS else None
        replace(path, buffer.getbuffer(), previous)


def replace(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Replace a file by ``content`` in one step; the former file becomes ``previous``, if that is given.

    Raises:
        DiskFullError: there is no space; the former file is left unchanged.
    """
    new = path.with_name(f"{path.name}.new")
    with disk_full_errors(path):
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
            os.fsync(folder)  # rename() is durable once the folder is
        finally:
            os.close(folder)


def _second_name(path: Path, name: Path) -> None:
    """Give ``path`` a second name without taking the first; file systems without links have ``name`` alone for a moment."""
    link = name.with_name(f"{name.name}.new")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
    except OSError:
        path.replace(name)
    else:
        link.replace(name)
        link.unlink(missing_ok=True)  # rename() does nothing if both names are of one file


@contextmanager
def disk_full_errors(path: Path) -> Iterator[None]:
    """Turn errors caused by a full disk or a used-up quota into ``DiskFullError``, which names the file or folder.

    Libraries wrap the system's error in errors of their own, so the whole chain of causes is searched.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                reason = (cause.strerror or "").lower()
                raise DiskFullError(f"{cause.filename or path} could not be written: {reason}") from error
            cause = cause.__cause__ or cause.__context__
        raise
