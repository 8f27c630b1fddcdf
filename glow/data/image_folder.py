"""Any folder of pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from glow.data.base import ArrayData, Arrays, Split
from glow.errors import UsageError, check_bool, check_positive, check_size
from glow.seeds import generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class ImageFolder(ArrayData):
    """Pictures of any size and mode below a folder, decoded once into memory.

    The folder holds pictures or folders of classes, or it holds splits, ``train`` and perhaps ``test`` and
    ``val``, that do so. Without ``test``, and without ``val``, these are held out of the training pictures by
    the seed. The classes are the folders of the training pictures in alphabetical order; the pictures of a
    class may lie in folders of their own.

    Every picture is turned upright, resized so that its shorter side is ``image_size``, and centre-cropped.
    Grey, palette, CMYK, alpha (over white) and 16-bit pictures are converted.

    Args:
        root: the folder.
        image_size: side of the square pictures in pixels.
        channels: 1 for grey, 3 for RGB.
        test_size: examples held out for testing when there is no ``test`` folder, a count or a fraction.
        skip_broken: leave out pictures that cannot be read instead of stopping.
        common: see ``ArrayData``.
    """

    def __init__(
        self,
        *,
        root: str | None,
        image_size: int,
        channels: int = 3,
        test_size: int | float = 0.1,
        skip_broken: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_positive("dataset.image_size", image_size, integer=True)
        check_positive("dataset.test_size", test_size)
        check_bool("dataset.skip_broken", skip_broken)
        if channels not in (1, 3):
            raise UsageError(f"dataset.channels must be 1 (grey) or 3 (RGB), got {channels}")
        if not isinstance(root, str):
            raise UsageError("dataset.root is missing: name the folder that holds the pictures")
        self.root = Path(root)
        self.image_size = image_size
        self.channels = channels
        self.test_size = test_size
        self.skip_broken = skip_broken
        if not self.root.is_dir():
            raise UsageError(f"dataset.root={root} is not a folder")
        folders = _folders(self.root)
        self.split_folders = {name: self.root / name for name in folders if name in ("train", "val", "test")}
        if self.split_folders and ("train" not in folders or len(self.split_folders) < len(folders)):
            raise UsageError(
                f"dataset.root={root} holds the folders {', '.join(folders)}: either the splits train, val and "
                "test, of which train must be there, or classes of other names, not both"
            )

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, C, S, S), labels (N,) or None when there are no class folders."""
        training = self.split_folders.get("train", self.root)
        classes = _folders(training)
        if split != "train" and split in self.split_folders:
            own = self.split_folders[split]
            return self._read(pictures_below(own), own, classes)
        if split == "val":
            return None
        pictures = pictures_below(training)
        if "test" in self.split_folders:
            # An empty one is better known before training than after.
            pictures_below(self.split_folders["test"])
        else:
            n = check_size("dataset.test_size", self.test_size, len(pictures))
            order = torch.randperm(len(pictures), generator=generator("cpu", "test", self.seed)).tolist()
            pictures = [pictures[i] for i in sorted(order[n:] if split == "train" else order[:n])]
        return self._read(pictures, training, classes)

    def _read(self, pictures: Sequence[Path], folder: Path, classes: list[str]) -> Arrays:
        self._check_memory(len(pictures))
        broken: list[str] = []

        def read(path: Path) -> Tensor | None:
            try:
                return read_picture(path, self.image_size, self.channels)
            # PIL raises OSError and ValueError, and SyntaxError and struct.error besides, for damaged files.
            except Exception as error:
                broken.append(f"{path}: {error}")
                return None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            bar = tqdm(
                pool.map(read, pictures),
                desc=f"reading {folder}",
                total=len(pictures),
                delay=2,
                disable=not sys.stderr.isatty(),
            )
            decoded = list(bar)
        if broken and not self.skip_broken:
            raise UsageError(
                f"{len(broken)} of {len(pictures)} pictures in {folder} cannot be read, the first is "
                f"{sorted(broken)[0]}; repair or remove them, or set dataset.skip_broken=true"
            )
        kept = [(p, t) for p, t in zip(pictures, decoded, strict=True) if t is not None]
        if not kept:
            raise UsageError(f"none of the {len(pictures)} pictures in {folder} can be read: {broken[0]}")
        x = torch.stack([t for _, t in kept])
        return x, _labels([p.relative_to(folder) for p, _ in kept], classes, folder)

    def _check_memory(self, n: int) -> None:
        need = 2 * n * self.channels * self.image_size**2
        free = _available_memory()
        if free is not None and need > free:
            raise UsageError(
                f"{n} pictures of dataset.image_size={self.image_size} need about {need / 2**30:.0f} GiB of memory "
                f"to load, and {free / 2**30:.0f} GiB are free; choose a smaller dataset.image_size"
            )


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


def _labels(pictures: Sequence[Path], classes: list[str], folder: Path) -> Tensor | None:
    """The index of each picture's class, (N,); None if there are no classes or some picture is in none."""
    names = [p.parts[0] if len(p.parts) > 1 else None for p in pictures]
    if not classes or None in names:
        return None
    if unknown := {str(n) for n in names} - set(classes):
        raise UsageError(f"{folder} has the class {min(unknown)}, which the training pictures lack")
    return torch.tensor([classes.index(str(n)) for n in names])


def _folders(folder: Path) -> list[str]:
    return sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))


def pictures_below(folder: Path) -> list[Path]:
    """The files of pictures in a folder and its subfolders, sorted; raises ``UsageError`` if there are none."""
    found = []
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [d for d in subfolders if not d.startswith(".")]
        found += [Path(directory, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    if not found:
        raise UsageError(f"dataset.root: no pictures below {folder} (looked for {', '.join(SUFFIXES)})")
    return sorted(found)


def _available_memory() -> int | None:
    """Bytes that can be had without swapping; None where Linux does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
