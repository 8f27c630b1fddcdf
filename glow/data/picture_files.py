"""Files of pictures: which there are, and what is in them."""

import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import ENOENT
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from glow.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

DECODER_VERSION = 1
"""Raised with every change of ``read_picture`` that changes a pixel: older caches are then stale."""


class PictureFiles(NamedTuple):
    """The pictures below a folder as they were found, sorted."""

    folder: Path
    paths: list[Path]
    names: list[str]
    """The paths below the folder."""
    fingerprints: list[tuple[int, int]]
    """See ``fingerprint``."""
    part: str = ""
    """Which of the folder's pictures they are, if not all."""

    @classmethod
    def find(cls, folder: Path) -> "PictureFiles":
        """List a folder; raises ``UsageError`` if there are no pictures below it."""
        paths = pictures_below(folder)
        above = len(str(folder / "x")) - 1
        return cls(folder, paths, [str(p)[above:] for p in paths], [fingerprint(p) for p in paths])

    def key(self) -> str:
        """A digest of all that the decoded pictures depend on, but for their size and channels."""
        return digest((DECODER_VERSION, self.names, self.fingerprints))


def list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders in a folder and its files, but for hidden ones; nothing where it may not be listed.

    The folders are sorted by name, those that lie there before links to others. Links that loop, to the folder
    itself or to one that it lies in, are left out.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda e: (e.is_symlink(), e.name))
    except PermissionError:
        return [], []
    real = folder.resolve()
    above = {real, *real.parents}
    folders, files = [], []
    for entry in entries:
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if not os.path.isdir(path) if entry.is_symlink() else not entry.is_dir():
            files.append(path)
        elif not (entry.is_symlink() and path.resolve() in above):
            folders.append(path)
    return folders, files


def first_met(folders: list[Path], met: set[Path]) -> list[Path]:
    """Those of which ``met`` holds no real path; adds theirs to it."""
    new = []
    for folder in folders:
        if (real := folder.resolve()) not in met:
            met.add(real)
            new.append(folder)
    return new


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in a folder and its subfolders whose names end so, sorted.

    Symbolic links are followed, but no folder is read twice: its files have the path by which it is met first,
    level by level, and in each folder in the order of ``list_folder``.
    """
    found, folders = [], [folder]
    met = {folder.resolve()}
    for directory in folders:  # which grows meanwhile
        subfolders, files = list_folder(directory)
        found += [f for f in files if f.name.lower().endswith(suffixes)]
        folders += first_met(subfolders, met)
    return sorted(found)


def pictures_below(folder: Path) -> list[Path]:
    """The files of pictures in a folder and its subfolders, see ``files_below``; raises ``UsageError`` if there are none."""
    found = files_below(folder, SUFFIXES)
    if not found:
        raise UsageError(f"dataset.root: no pictures below {folder} (looked for {', '.join(SUFFIXES)})")
    return found


def fingerprint(path: Path) -> tuple[int, int]:
    """Bytes, and nanoseconds of the last change; (-1, -1) of a link to nothing."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def read_picture(path: Path, size: int, channels: int) -> Tensor:
    """One picture as uint8 (C, size, size). Raises what PIL raises for a file that it cannot read."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode[0] in "IF":  # 16 bits (I;16) or an unknown range (I, F); `convert` would clip at 255
            values = np.asarray(image).astype(np.float64)
            sixteen_bits = image.mode.startswith("I;16") or values.max() > 255
            values = values / 257 if sixteen_bits else values * 255 if values.max() <= 1 else values
            image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1).contiguous()


def read_pictures(files: PictureFiles, size: int, channels: int) -> Iterator[Tensor | None]:
    """The pictures in their order, each uint8 (C, size, size); None for a broken one.

    Raises:
        UsageError: a picture may not be opened, which is not broken; or some changed meanwhile, told at the end.
    """

    def read(path: Path) -> Tensor | None:
        try:
            return read_picture(path, size, channels)
        # PIL raises OSError and ValueError, and SyntaxError and struct.error besides, for damaged files.
        except Exception as error:
            if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, ENOENT):
                raise UsageError(
                    f"dataset.root: {path} cannot be opened ({error!r}); make it readable or remove it"
                ) from error
            return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from tqdm(
            pool.map(read, files.paths),
            desc=f"reading {files.folder}",
            total=len(files.paths),
            delay=2,
            disable=not sys.stderr.isatty(),
        )
    found = zip(files.paths, files.fingerprints, strict=True)
    changed = [path for path, before in found if fingerprint(path) != before]
    if changed:
        raise UsageError(
            f"dataset.root: {len(changed)} pictures below {files.folder} changed while they were read, the first is "
            f"{changed[0]}; repeat the command when nothing writes there"
        )


def decode(files: PictureFiles, size: int, channels: int) -> tuple[Tensor, Tensor]:
    """The pictures, uint8 (N, C, size, size), a broken one black, and which could be read, bool (N,)."""
    x = torch.zeros(len(files.paths), channels, size, size, dtype=torch.uint8)
    readable = torch.ones(len(x), dtype=torch.bool)
    for i, picture in enumerate(read_pictures(files, size, channels)):
        if picture is None:
            readable[i] = False
        else:
            x[i] = picture
    return x, readable


def decode_error(path: Path, size: int, channels: int) -> str:
    """What is wrong with a picture that could not be read, in a few words."""
    try:
        read_picture(path, size, channels)
    except UnidentifiedImageError:
        return (
            "it is empty" if not path.stat().st_size else "its content is no picture, whatever its name says"
        )
    except Image.DecompressionBombError:
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, make it smaller"
    except Exception as error:
        return str(error)
    return "it can be read now, but could not before: touch it, so that it is read again"


def digest(what: object) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]
