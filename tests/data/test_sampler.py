"""Every example in exactly one batch of one device."""

import pytest
import torch

from glow.data.sampler import EpochBatches


def batches(n: int, batch_size: int, devices: int, **options: object) -> list[list[torch.Tensor]]:
    return [
        list(EpochBatches(n, batch_size, device=d, devices=devices, **options))  # type: ignore[arg-type]
        for d in range(devices)
    ]


@pytest.mark.parametrize("n", [1, 7, 64, 100, 101, 128])
@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_example_once(n: int, devices: int, shuffle: bool) -> None:
    if n < devices:
        return
    per_device = batches(n, 12, devices, shuffle=shuffle)
    seen = torch.cat([b for device in per_device for b in device]).tolist()
    assert len(set(seen)) == len(seen)
    left_out = n % devices if shuffle else 0
    assert len(seen) == n - left_out
    assert len({len(device) for device in per_device}) == 1, "devices must agree on the number of batches"
    sizes = [len(b) for b in per_device[0]]
    assert max(sizes) <= 12 // devices + 1
    assert max(sizes) - min(sizes) <= (1 if shuffle else 2)


def test_devices_share_the_batches_of_one_device() -> None:
    [alone] = batches(96, 32, 1, shuffle=True, seed=3)
    first, second = batches(96, 32, 2, shuffle=True, seed=3)
    for whole, a, b in zip(alone, first, second, strict=True):
        assert torch.equal(whole[0::2], a)
        assert torch.equal(whole[1::2], b)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    epoch = 0
    sampler = EpochBatches(50, 50, shuffle=True, seed=0, epoch=lambda: epoch)
    first = next(iter(sampler))
    assert torch.equal(first, next(iter(sampler)))
    epoch = 1
    assert not torch.equal(first, next(iter(sampler)))
    assert not torch.equal(first, next(iter(EpochBatches(50, 50, shuffle=True, seed=1))))


def test_it_continues_inside_an_epoch() -> None:
    whole = list(EpochBatches(50, 8, shuffle=True))
    rest = EpochBatches(50, 8, shuffle=True, completed=lambda: 3)
    assert len(rest) == len(whole) == 7
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[3:], strict=True))
