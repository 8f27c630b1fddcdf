"""What all datasets share: splits, batches and how they reach the devices."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from glow.data.sampler import EpochBatches
from glow.errors import UsageError, check_positive
from glow.resilience.lightning_internals import batches_begun
from glow.seeds import generator

Split = Literal["train", "val", "test"]
Arrays = tuple[Tensor, Tensor | None]
"""Examples, uint8 (N, C, H, W) or (N, C, T), or float32 (N, D), and labels, int64 (N,), or observations, float32 (N, K), if there are any."""


class Examples(Dataset[tuple[Tensor, ...]]):
    """Examples with their labels, or some rows of such, which are copied only when a batch takes them.

    Args:
        x: uint8 (N, C, H, W) or (N, C, T), or float32 (N, D). They may be the pages of a file that all processes share.
        y: labels, int64 (N,), if there are any, or observations, float32 (N, K).
        rows: which of the N there are, int64 (n,); None for all.
        levels: (k, source) grey levels: images of ``source`` levels are given as ``floor(v * k / source)``.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        rows: Tensor | None = None,
        levels: tuple[int, int] | None = None,
    ) -> None:
        self.x = x
        self.y = y
        self.rows = torch.arange(len(x)) if rows is None else rows
        self.levels = levels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """The examples of indices (B,): a tuple ``(x,)`` or ``(x, y)``."""
        x, y = self.take(batch).arrays()
        return (x,) if y is None else (x, y)

    def take(self, chosen: Tensor) -> "Examples":
        """The examples of indices (n,)."""
        return Examples(self.x, self.y, self.rows[chosen], self.levels)

    def labels(self) -> Tensor | None:
        """Labels (n,), or observations (n, K)."""
        return None if self.y is None else self.y[self.rows]

    def arrays(self) -> Arrays:
        """A copy of the rows."""
        x = self.x[self.rows]
        if self.levels is not None:
            levels, source = self.levels
            for part in x.view(-1).split(1 << 20):  # which take little memory besides x
                part.copy_(part.int() * levels // source)
        return x, self.labels()


def part_size(name: str, size: int | float, n: int) -> int:
    """How many of ``n`` examples a count, or a fraction below 1, asks for.

    Args:
        name: the setting, for the message.
        size: above zero.
        n: number of examples.

    Raises:
        UsageError: none is taken, or none is left.
    """
    taken = round(n * size) if size < 1 else int(size)
    if not 0 < taken < n:
        raise UsageError(
            f"{name}={size} takes {taken} of {n} examples and leaves {n - taken}; both need at least one"
        )
    return taken


def split_sizes(train_size: int, val_size: int | float, test_size: int) -> dict[Split, int]:
    """The sizes of splits that are drawn independently of one another; ``val_size`` may be a fraction of the first."""
    check_positive("dataset.train_size", train_size, integer=True)
    check_positive("dataset.test_size", test_size, integer=True)
    return {
        "train": train_size,
        "val": part_size("dataset.val_size", val_size, train_size),
        "test": test_size,
    }


class ArrayData(L.LightningDataModule):
    """A dataset held in memory; images as uint8, which is also how they travel to the device.

    A batch is a tuple ``(x,)`` or ``(x, y)``.  The validation split is held out of the training data by
    ``seed`` unless the dataset has one of its own. The test split is loaded by the test stage only.

    Args:
        name: what the dataset is called in run names and messages.
        shape: the shape of one example, (C, H, W), (C, T) or (D,); checked against the data.
        batch_size: global, divided by the number of devices.
        val_size: examples held out for validation, a count or a fraction of the training data.
        seed: decides the held-out examples and the order of the batches.
        grey_levels: number of levels of images, or signals, at most what the data has: ``floor(v * grey_levels / source)``,
            which is ``floor(v / 2^(8 - n))`` for 2^n of 256. None for vectors.
        classes: number of labels; None when there are none or it does not matter.
    """

    source_levels = 256
    """Grey levels of what ``load`` returns."""

    COUNTED = 10_000
    """So many training images at most are looked at for the distribution of grey levels."""

    def __init__(
        self,
        *,
        name: str,
        shape: Sequence[int],
        batch_size: int,
        val_size: int | float = 0.1,
        seed: int = 0,
        grey_levels: int | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        check_positive("dataset.batch_size", batch_size, integer=True)
        check_positive("dataset.val_size", val_size)
        if grey_levels is not None:
            check_positive("dataset.grey_levels", grey_levels, integer=True)
            if not 2 <= grey_levels <= self.source_levels:
                raise UsageError(
                    f"dataset.grey_levels must be from 2 to {self.source_levels}, got {grey_levels}"
                )
        self.name = name
        self.shape = tuple(shape)
        self.batch_size = batch_size
        self.val_size = val_size
        self.seed = seed
        self.grey_levels = grey_levels
        self.classes = classes
        self.examples: dict[Split, Examples] = {}
        """The splits that were loaded."""

    @abstractmethod
    def load(self, split: Split) -> Examples | None:
        """The examples of a split; None for a validation split that is to be held out of the training data."""

    def setup(self, stage: str) -> None:
        """Load what the stage needs: ``fit`` and ``validate`` the first two splits, ``test`` the last."""
        if stage == "test":
            if "test" not in self.examples:
                self.examples["test"] = self._checked("test", self.load("test"))
        elif "train" not in self.examples:
            train = self._checked("train", self.load("train"))
            val = self.load("val")
            self.examples["train"], self.examples["val"] = (
                self._hold_out(train) if val is None else (train, self._checked("val", val))
            )

    def arrays(self, split: Split) -> Arrays:
        """A copy of the examples of a split that was loaded, and of their labels."""
        return self.examples[split].arrays()

    def initialization_batch(self, n: int) -> Arrays:
        """``n`` training examples (or all, if fewer) chosen by the seed alone, the same on every device."""
        return self._chosen(n).arrays()

    def grey_level_counts(self) -> Tensor | None:
        """How many of the training images' values have each grey level, int64 (C, grey_levels); None of vectors.

        Of all training images, or of ``COUNTED`` that the seed alone chooses: the same on every device.
        """
        if self.grey_levels is None:
            return None
        images = self._chosen(self.COUNTED)
        counts = torch.zeros(self.shape[0], self.grey_levels, dtype=torch.int64)
        for part in torch.arange(len(images)).split(1024):  # 10,000 large images would be gigabytes
            x, _ = images.take(part).arrays()
            for channel, count in zip(x.unbind(1), counts, strict=True):
                count += channel.flatten().bincount(minlength=self.grey_levels)
        return counts

    def train_dataloader(self) -> DataLoader:
        """Shuffled anew every epoch; continues inside an epoch when the trainer does."""
        trainer = self.trainer
        assert trainer is not None
        fixed = trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader(
            "train",
            shuffle=not fixed,
            epoch=lambda: trainer.current_epoch,
            completed=lambda: batches_begun(trainer),
        )

    def val_dataloader(self) -> DataLoader:
        """Every validation example once."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Every test example once."""
        return self._loader("test")

    def _loader(self, split: Split, shuffle: bool = False, **position: Callable[[], int]) -> DataLoader:
        trainer = self.trainer
        devices = trainer.world_size if trainer else 1
        if self.batch_size % devices:
            raise UsageError(
                f"dataset.batch_size={self.batch_size} is global and does not divide by the "
                f"{devices} devices; take a multiple of {devices}"
            )
        examples = self.examples[split]
        if len(examples) < devices:
            raise UsageError(
                f"the {split} split of {self.name} has {len(examples)} examples for {devices} devices"
            )
        sampler = EpochBatches(
            len(examples),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            device=trainer.global_rank if trainer else 0,
            devices=devices,
            **position,
        )
        # The sampler yields whole batches of indices, and the examples take them at once.
        return DataLoader(examples, sampler=sampler, batch_size=None, pin_memory=torch.cuda.is_available())

    def _chosen(self, n: int) -> Examples:
        """``n`` training examples, or all, that the seed alone chooses."""
        train = self.examples["train"]
        order = torch.randperm(len(train), generator=generator("cpu", "initialization", self.seed))
        return train.take(order[:n])

    def _hold_out(self, train: Examples) -> tuple[Examples, Examples]:
        n = part_size("dataset.val_size", self.val_size, len(train))
        order = torch.randperm(len(train), generator=generator("cpu", "validation", self.seed))
        return train.take(order[n:]), train.take(order[:n])

    def _checked(self, split: Split, examples: Examples | None) -> Examples:
        if examples is None or not len(examples):
            raise UsageError(f"the {split} split of {self.name} is empty")
        shape, y = tuple(examples.x.shape[1:]), examples.labels()
        if shape != self.shape:
            raise UsageError(
                f"{self.name} has examples of shape {shape}, but dataset.shape={list(self.shape)}"
            )
        if y is not None and self.classes is not None and int(y.max()) >= self.classes:
            raise UsageError(
                f"{self.name} has labels up to {int(y.max())}, but dataset.classes={self.classes}; "
                f"it must be at least {int(y.max()) + 1}"
            )
        levels = self.grey_levels
        if levels is None or levels == self.source_levels:
            return examples
        return Examples(examples.x, examples.y, examples.rows, (levels, self.source_levels))
