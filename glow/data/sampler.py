"""Which examples make which batch, on which device."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from glow.seeds import generator


class EpochBatches(SequentialSampler):
    """The batches of one epoch as tensors of indices; every example is in exactly one of them.

    The examples are divided as evenly as possible, so that no batch is a small remainder: with n examples
    there are ``ceil(n / batch_size)`` batches whose sizes differ by at most one per device. All devices
    see the same number of batches. In training, where gradients are averaged over devices, they see the
    same number of examples too, and up to ``devices - 1`` examples, others in every epoch, are left out;
    in evaluation none is.

    It is a ``SequentialSampler`` in name only, so that Lightning's ``overfit_batches`` leaves it in place.

    Args:
        n: number of examples.
        batch_size: global batch size, a multiple of ``devices``.
        shuffle: draw a new order in every epoch (training) or keep the order of the data (evaluation).
        seed: with the epoch, decides the order.
        device: index of this device.
        devices: number of devices.
        epoch: the number of this epoch.
        completed: number of batches of this epoch that an earlier start completed, which are left out; above zero
            only when a run is resumed inside an epoch. It and ``epoch`` are called when the first batch is asked
            for, since Lightning makes the iterator before it has restored its progress.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        device: int = 0,
        devices: int = 1,
        epoch: Callable[[], int] = lambda: 0,
        completed: Callable[[], int] = lambda: 0,
    ) -> None:
        self.n = n
        self.shuffle = shuffle
        self.seed = seed
        self.device = device
        self.devices = devices
        self.epoch = epoch
        self.completed = completed
        self.n_batches = -(-(n // devices) // max(1, batch_size // devices))

    def __len__(self) -> int:
        """Batches in a whole epoch, whatever ``completed`` returns."""
        return self.n_batches

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        if self.shuffle:
            order = torch.randperm(self.n, generator=generator("cpu", "order", self.seed, self.epoch()))
        else:
            order = torch.arange(self.n)
        even = self.n - self.n % self.devices
        mine = order[:even].view(-1, self.devices)[:, self.device]
        batches = list(mine.tensor_split(self.n_batches))
        if not self.shuffle and self.device < self.n - even:
            batches[-1] = torch.cat((batches[-1], order[even + self.device, None]))
        yield from batches[self.completed() :]
