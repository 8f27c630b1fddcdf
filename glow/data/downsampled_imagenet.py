"""ImageNet at 32x32 or 64x64 pixels."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor
from tqdm import tqdm

from glow.data.base import ArrayData, Examples, Split
from glow.errors import UsageError, check_choice

KINDS = ("ImageNet32", "ImageNet64")
CLASSES = 1000
TRAINING = [f"train_data_batch_{i}" for i in range(1, 11)]
TEST = ["val_data"]


class DownsampledImageNet(ArrayData):
    """ImageNet (ILSVRC 2012) by Chrabaszcz et al. (2017), from its published ``.npz`` files.

    1,281,167 training images, of which the validation split is held out, and 50,000 of ``val_data``, the test split. Every
    process holds the training images: 3.9 GB of 32x32 pixels, 15.7 GB of 64x64, and while they are read a tenth more.
    They are another downsampling than the one of van den Oord et al. (2016), of which most papers report bits/dim.

    Args:
        root: the folder that holds the files, or the folders of the unpacked archives (``Imagenet32_train_npz``, ...).
        kind: one of ``KINDS``.
        common: see ``ArrayData``.
    """

    def __init__(self, *, kind: str, root: str | Path, **common: Any) -> None:
        super().__init__(**common)
        check_choice("dataset.kind", kind, KINDS)
        self.kind = kind
        self.size = int(kind.removeprefix("ImageNet"))
        self.root = Path(root)

    def prepare_data(self) -> None:
        """Say early which files are missing; none is downloaded."""
        self._paths(TRAINING + TEST)

    def load(self, split: Split) -> Examples | None:
        """uint8 (N, 3, S, S), labels (N,)."""
        if split == "val":
            return None
        paths = self._paths(TRAINING if split == "train" else TEST)
        labels = [self._labels(path) for path in paths]
        x = torch.empty(sum(map(len, labels)), 3, self.size, self.size, dtype=torch.uint8)
        parts = x.split([len(y) for y in labels])
        quiet = not sys.stderr.isatty()
        for path, part in zip(
            tqdm(paths, f"reading {self.kind}", delay=2, disable=quiet), parts, strict=True
        ):
            part.copy_(self._images(path, len(part)))
        return Examples(x, torch.cat(labels))

    def _paths(self, names: list[str]) -> list[Path]:
        """The file of each name, in ``root`` or in a folder of it, first in those that are named after the size."""
        folders = [f for f in self.root.iterdir() if f.is_dir()] if self.root.is_dir() else []
        folders.sort(key=lambda f: (str(self.size) not in f.name, f.name))
        found = {}
        for folder in (self.root, *folders):
            for name in names:
                if name not in found and (path := folder / f"{name}.npz").is_file():
                    found[name] = path
        if missing := [name for name in names if name not in found]:
            pickled = any((folder / missing[0]).is_file() for folder in (self.root, *folders))
            raise UsageError(
                f"{self.kind} is not whole in dataset.root={self.root}: {len(missing)} of {len(names)} files are missing, the "
                f"first is {missing[0]}.npz; "
                + ("pickled files, which can run code, are not read; " if pickled else "")
                + f"download the npz archives of {self.size}x{self.size} pixels (downsampled image data) from image-net.org "
                "and unpack them there"
            )
        return [found[name] for name in names]

    def _labels(self, path: Path) -> Tensor:
        """Labels 0 to 999, (N,)."""
        y = self._array(path, "labels")
        if y.ndim != 1 or y.dtype.kind not in "iu" or not len(y) or y.min() < 1 or y.max() > CLASSES:
            raise self._damaged(path, f"its labels are not numbers from 1 to {CLASSES}")
        return torch.from_numpy(y.astype(np.int64)) - 1

    def _images(self, path: Path, n: int) -> Tensor:
        """uint8 (n, 3, S, S)."""
        x = self._array(path, "data")
        if (
            x.ndim == 2
            and (size := round((x.shape[1] / 3) ** 0.5)) != self.size
            and 3 * size**2 == x.shape[1]
        ):
            raise UsageError(
                f"dataset.root: {path} has images of {size}x{size} pixels, not of {self.size}x{self.size}; set dataset.root "
                f"to the files of {self.kind}"
            )
        if x.shape != (n, 3 * self.size**2) or x.dtype != np.uint8:
            expected = f"uint8 ({n}, {3 * self.size**2}) for its {n} labels"
            raise self._damaged(path, f"its images are {x.dtype} {x.shape} and not {expected}")
        return torch.from_numpy(x).view(n, 3, self.size, self.size)

    def _array(self, path: Path, name: str) -> np.ndarray:
        try:
            file = np.load(path, allow_pickle=False)
            if isinstance(file, NpzFile):
                with file:
                    array = file[name]
                if isinstance(array, np.ndarray):
                    return array
            raise ValueError("it is no npz file of arrays")
        # numpy raises OSError, ValueError, KeyError, EOFError, MemoryError, and zipfile and zlib errors of their own.
        except Exception as error:
            raise self._damaged(path, str(error)) from error

    def _damaged(self, path: Path, why: str) -> UsageError:
        return UsageError(f"dataset.root: {path} is damaged ({why}); download and unpack it anew")
