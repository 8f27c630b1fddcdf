"""Datasets that torchvision downloads and reads."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from glow.data.base import ArrayData, Examples, Split
from glow.data.file_lock import file_lock
from glow.errors import UsageError, check_choice

KINDS = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100", "SVHN")


@contextmanager
def turn_to_download(root: str | Path, what: str) -> Iterator[None]:
    """Of the processes that want to download into a folder, which is made if need be, one at a time does."""
    with suppress(OSError):
        Path(root).mkdir(parents=True, exist_ok=True)
    with file_lock(Path(root, ".glow-lock"), f"another process to download {what}"):
        yield


class TorchvisionData(ArrayData):
    """An image dataset of torchvision, downloaded into ``root`` when it is not there.

    Args:
        kind: the class in ``torchvision.datasets``, one of ``KINDS``.
        root: torchvision's folder, the one that holds ``MNIST/raw``, ``cifar-10-batches-py``, ``cifar-100-python``,
            or SVHN's ``train_32x32.mat`` and ``test_32x32.mat``.
        common: see ``ArrayData``.
    """

    def __init__(self, *, kind: str, root: str | Path, **common: Any) -> None:
        super().__init__(**common)
        check_choice("dataset.kind", kind, KINDS)
        self.kind = kind
        self.root = root

    def prepare_data(self) -> None:
        """Download if needed; Lightning calls it on one process of a node, and nodes that share a disk take turns."""
        with suppress(Exception):
            self._read(train=True)
            self._read(train=False)
            return
        # Another process may be writing the files, so that what is wrong shows only under the lock.
        with turn_to_download(self.root, self.kind):
            self._download()

    def _download(self) -> None:
        try:
            self._read(train=True)
            self._read(train=False)
        except Exception as damaged:  # torchvision raises whatever its reader of the format does
            if not (isinstance(damaged, RuntimeError) and "not found" in str(damaged)):
                raise UsageError(
                    f"the files of {self.kind} in dataset.root={self.root} are damaged ({damaged}); remove them "
                    "and repeat the command to download them anew"
                ) from damaged
            try:
                for train in (True, False):  # SVHN downloads one at a time
                    self._read(train, download=True)
            except (OSError, RuntimeError, EOFError) as error:
                raise UsageError(
                    f"{self.kind} is not, or not whole, in dataset.root={self.root} and could not be downloaded "
                    f"({' '.join(str(error).split())}); set dataset.root to a folder that has it in torchvision's layout"
                ) from error

    def load(self, split: Split) -> Examples | None:
        """uint8 (N, C, H, W), labels (N,)."""
        if split == "val":
            return None
        x, y = self._read(train=split == "train")
        if self.kind != "SVHN":
            x = x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2)
        return Examples(x.contiguous(), y)

    def _read(self, train: bool, download: bool = False) -> tuple[Tensor, Tensor]:
        """Images as torchvision has them, uint8 (N, H, W), (N, H, W, C) or, of SVHN, (N, C, H, W); labels (N,)."""
        if self.kind == "SVHN":
            svhn = datasets.SVHN(self.root, split="train" if train else "test", download=download)
            images, labels = svhn.data, svhn.labels
        else:
            dataset = getattr(datasets, self.kind)(self.root, train=train, download=download)
            images, labels = dataset.data, dataset.targets
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        return torch.as_tensor(images), torch.as_tensor(labels).long()
