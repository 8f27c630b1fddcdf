"""Datasets that torchvision downloads and reads."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets

from glow.data.base import ArrayData, Examples, Split
from glow.data.file_lock import file_lock
from glow.errors import UsageError, check_choice

KINDS = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10", "CIFAR100")


class TorchvisionData(ArrayData):
    """An image dataset of torchvision, downloaded into ``root`` when it is not there.

    Args:
        kind: the class in ``torchvision.datasets``, one of ``KINDS``.
        root: torchvision's folder, the one that holds ``MNIST/raw`` or ``cifar-10-batches-py``.
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
            self._open(train=True)
            self._open(train=False)
            return
        # Another process may be writing the files, so that what is wrong shows only under the lock.
        with suppress(OSError):
            Path(self.root).mkdir(parents=True, exist_ok=True)
        with file_lock(Path(self.root, ".glow-lock"), f"another process to download {self.kind}"):
            self._download()

    def _download(self) -> None:
        try:
            self._open(train=True)
            self._open(train=False)
        except Exception as damaged:  # torchvision raises whatever its reader of the format does
            if not (isinstance(damaged, RuntimeError) and "not found" in str(damaged)):
                raise UsageError(
                    f"the files of {self.kind} in dataset.root={self.root} are damaged ({damaged}); remove them "
                    "and repeat the command to download them anew"
                ) from damaged
            try:
                self._open(train=True, download=True)
            except (OSError, RuntimeError, EOFError) as error:
                raise UsageError(
                    f"{self.kind} is not, or not whole, in dataset.root={self.root} and could not be downloaded "
                    f"({' '.join(str(error).split())}); set dataset.root to a folder that has it in torchvision's layout"
                ) from error

    def load(self, split: Split) -> Examples | None:
        """uint8 (N, C, H, W), labels (N,)."""
        if split == "val":
            return None
        dataset = self._open(train=split == "train")
        x = torch.as_tensor(dataset.data)
        x = x[:, None] if x.dim() == 3 else x.permute(0, 3, 1, 2).contiguous()
        return Examples(x, torch.as_tensor(dataset.targets).long())

    def _open(self, train: bool, download: bool = False) -> Any:
        dataset = getattr(datasets, self.kind)(self.root, train=train, download=download)
        if len(dataset.data) != len(dataset.targets):
            raise ValueError(f"{len(dataset.data)} images and {len(dataset.targets)} labels")
        return dataset
