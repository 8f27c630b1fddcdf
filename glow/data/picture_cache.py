"""Decoded pictures in files that all processes of a machine map, so that its memory holds them once."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from math import prod
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
import torch
from numpy.lib.format import open_memmap, write_array_header_1_0
from torch import Tensor

from glow.data.file_lock import file_lock
from glow.data.picture_files import PictureFiles, digest, read_pictures


class PictureCache:
    """Keeps the decoded pictures of each folder in a ``.npy`` file, and which could be read in another.

    The file's name depends on everything that its bytes depend on, and it appears when it is complete. Of several
    processes that want to write it, on one machine or on several that share the disk, one does and the others wait;
    where the file system has no locks, all do and one of the equal files stays. Stale files, those of pictures that
    have changed since, are left alone, as a process may be reading them: a line names them when a new one is written.

    Args:
        root: the folder that holds all pictures.
        location: a folder for the files; ``auto``, hidden files in ``root`` or, where that cannot be written,
            in ``~/.cache/glow``.
        size: side of the square pictures in pixels.
        channels: 1 or 3.
    """

    def __init__(self, root: Path, location: str, size: int, channels: int) -> None:
        self.root = root
        self.location = location
        self.size = size
        self.channels = channels

    def load(self, files: PictureFiles) -> tuple[Tensor, Tensor]:
        """The pictures, uint8 (N, C, size, size), and which could be read, bool (N,); decoded unless they are kept.

        What is written to them stays in this process.

        Raises:
            OSError: the cache can neither be read nor written.
            UsageError: see ``read_pictures``.
        """
        part = files.part or ("" if files.folder == self.root else files.folder.name)
        kind = f".glow{part and '-' + part}-{self.size}x{self.channels}-"
        path = self.cache_path(f"{kind}{files.key()}.npy")
        shape = (len(files.paths), self.channels, self.size, self.size)
        if (kept := _mapped(path, shape)) is not None:
            return kept
        folder = path.parent
        folder.mkdir(parents=True, exist_ok=True)
        with file_lock(folder / ".glow-lock", f"another process to write {folder}") as held:
            if (kept := _mapped(path, shape)) is not None:
                return kept
            if held:  # then these were left by processes that died
                for partial in folder.glob(f"{kind}*.partial"):
                    partial.unlink()
            self._write(path, shape, files)
        found = {p.name for p in folder.glob(f"{kind}*") if p.suffix != ".partial"}
        if stale := sorted(found - {path.name, _flags(path).name}):
            message = f"stale caches, which may be removed when no process uses them, in {folder}: {', '.join(stale)}"
            print(message, file=sys.stderr, flush=True)
        if (kept := _mapped(path, shape)) is None:
            raise OSError(f"{path} does not hold the pictures that were written")
        return kept

    def cache_path(self, name: str) -> Path:
        """Where the file of that name is, or is to be written."""
        if self.location == "auto" and (os.access(self.root, os.W_OK) or (self.root / name).exists()):
            return self.root / name
        root = self.root.resolve()
        own = f"{root.name}-{digest(str(root))}"
        if self.location != "auto":
            return Path(self.location, own, name)
        return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "glow", own, name)

    def _write(self, path: Path, shape: tuple[int, ...], files: PictureFiles) -> None:
        if shutil.disk_usage(path.parent).free < prod(shape):
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))
        readable = []
        with _complete_file(path) as file:
            # Not through a map, whose pages on a full disk would end the process (SIGBUS).
            write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for picture in read_pictures(files, self.size, self.channels):
                file.write(bytes(prod(shape[1:])) if picture is None else picture.numpy().tobytes())
                readable.append(picture is not None)
            with _complete_file(_flags(path)) as flags:  # in place before the pictures are
                np.save(flags, np.array(readable))


def _flags(path: Path) -> Path:
    return path.with_name(f"{path.stem}-readable.npy")


def _mapped(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """What is kept; None if there is nothing, or not what is expected."""
    try:
        # What `np.load(mmap_mode="c")` calls for an array; it opens nothing else.
        x, readable = open_memmap(path, mode="c"), open_memmap(_flags(path), mode="c")
    except (FileNotFoundError, ValueError):
        return None
    whole = path.stat().st_size == x.offset + x.nbytes
    if (
        not whole
        or (x.shape, x.dtype) != (shape, np.uint8)
        or (readable.shape, readable.dtype) != (shape[:1], np.bool)
    ):
        return None
    return torch.from_numpy(x), torch.from_numpy(readable)


@contextmanager
def _complete_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when all of it is on the disk."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
