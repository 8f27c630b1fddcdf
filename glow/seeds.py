"""Random numbers that depend on what they are for and on nothing that was drawn before.

Everything random in training (order, shifts, dequantization noise) comes from a generator keyed by the
seed and its place in the run, so that a resumed run and an uninterrupted one are the same to the last bit.
"""

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def generator(device: torch.device | str, purpose: str, *key: int) -> torch.Generator:
    """A generator on ``device``, the same for the same purpose and key, unrelated for any other."""
    import numpy as np  # here, since the flows use this file, too, and need torch alone

    entropy = np.random.SeedSequence([zlib.crc32(purpose.encode()), *key])
    seed = int(entropy.generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def draw(
    sampler: Callable[..., Tensor],
    *size: Any,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Random numbers, drawn on the generator's device and then moved: one of the CPU gives the same on every device.

    Args:
        sampler: ``torch.rand``, ``torch.randn``, ``torch.randint`` or ``torch.randperm``.
        size: its arguments.
        generator: their source; the global one of ``device`` when absent.
        device: where they are needed; None leaves them where they were drawn.
        dtype: what they are converted to; None for that of the sampler.

    >>> draw(torch.randint, 3, (2,), generator=torch.Generator().manual_seed(0), dtype=torch.float64).dtype
    torch.float64
    """
    source = device if generator is None else generator.device
    return sampler(*size, generator=generator, device=source).to(device, dtype)
