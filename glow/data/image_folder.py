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
from glow.errors import UsageError, check_positive
from glow.seeds import generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class ImageFolder(ArrayData):
    """Pictures of any size and mode below a folder, decoded once into memory.

    The folder may have the splits ``train``, ``test`` and ``val`` as subfolders; without ``test``, and
    without ``val``, these are held out of the training pictures by the seed. The folders below that, if
    there are any, are the classes in alphabetical order.

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
        if channels not in (1, 3):
            raise UsageError(f"dataset.channels must be 1 (grey) or 3 (RGB), got {channels}")
        if root is None:
            raise UsageError("dataset.root is missing: name the folder that holds the pictures")
        self.root = Path(root)
        self.image_size = image_size
        self.channels = channels
        self.test_size = test_size
        self.skip_broken = skip_broken
        if not self.root.is_dir():
            raise UsageError(f"dataset.root={root} is not a folder")

    def load(self, split: Split) -> Arrays | None:
        """uint8 (N, C, S, S), labels (N,) or None when there are no class folders."""
        has_train = (self.root / "train").is_dir()
        if split != "train" and has_train and (own := self.root / split).is_dir():
            return self._read(_pictures(own), own)
        if split == "val":
            return None
        folder = self.root / "train" if has_train else self.root
        pictures = _pictures(folder)
        if not (has_train and (self.root / "test").is_dir()):
            pictures = self._train_or_test(pictures, folder, split)
        return self._read(pictures, folder)

    def _train_or_test(self, pictures: list[Path], folder: Path, split: Split) -> list[Path]:
        """The part of the pictures that is the split, when there is no folder for testing."""
        n = round(len(pictures) * self.test_size) if self.test_size < 1 else int(self.test_size)
        if not 0 < n < len(pictures):
            raise UsageError(
                f"dataset.test_size={self.test_size} takes {n} of the {len(pictures)} pictures in {folder}; "
                "at least one must be left on either side"
            )
        order = torch.randperm(len(pictures), generator=generator("cpu", "test", self.seed)).tolist()
        return [pictures[i] for i in sorted(order[n:] if split == "train" else order[:n])]

    def _read(self, pictures: Sequence[Path], folder: Path) -> Arrays:
        self._check_memory(len(pictures))
        broken: list[str] = []

        def read(path: Path) -> Tensor | None:
            try:
                return read_picture(path, self.image_size, self.channels)
            # PIL raises these, and SyntaxError and struct.error besides, for damaged files.
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
        labels = [p.relative_to(folder).parts[0] if p.parent != folder else None for p, _ in kept]
        # From the folders, not the pictures: a split without pictures of some class keeps the numbering.
        names = sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))
        if None in labels or not names:
            return x, None
        return x, torch.tensor([names.index(str(label)) for label in labels])

    def _check_memory(self, n: int) -> None:
        need = 2 * n * self.channels * self.image_size**2
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else need
        if need > free:
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
            values = values / 257 if sixteen_bits else values
            image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1).contiguous()


def _pictures(folder: Path) -> list[Path]:
    found = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    if not found:
        raise UsageError(f"dataset.root: no pictures below {folder} (looked for {', '.join(SUFFIXES)})")
    return found
