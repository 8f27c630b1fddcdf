"""Random numbers that depend on what they are for and on nothing that was drawn before.

Everything random in training (order, shifts, dequantization noise) comes from a generator keyed by the
seed and its place in the run, so that a resumed run and an uninterrupted one are the same to the last bit.
"""

import zlib

import numpy as np
import torch


def generator(device: torch.device | str, purpose: str, *key: int) -> torch.Generator:
    """A generator on ``device``, the same for the same purpose and key, unrelated for any other."""
    entropy = np.random.SeedSequence([zlib.crc32(purpose.encode()), *key])
    seed = int(entropy.generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)
