"""Points of densities that are known, drawn on the spot."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.data.base import ArrayData, Examples, Split, split_sizes
from glow.distributions.plane import density


class Toy(ArrayData):
    """Points of a known density, in the plane for most, float32 (N, D); train, validation and test are drawn independently.

    Args:
        kind: a key of ``glow.distributions.plane.DENSITIES``.
        noise: how far it spreads around its lines or centres; ignored where there is no noise.
        train_size: points to train on.
        test_size: points to test on.
        common: see ``ArrayData``; ``val_size`` is a count or a fraction of ``train_size``.
    """

    def __init__(self, *, kind: str, noise: float, train_size: int, test_size: int, **common: Any) -> None:
        super().__init__(**common)
        self.density = density(kind, noise)
        self.sizes = split_sizes(train_size, self.val_size, test_size)

    def true_nll(self, x: Tensor, y: Tensor | None = None) -> float | None:
        """The mean negative log-density of points x (N, D), nats: their entropy, but for their number.

        None where it is infinite, as without noise.
        """
        if not self.density.is_density:
            return None
        return self.density.log_normalizer - self.density.log_prob(x.double()).mean().item()

    def load(self, split: Split) -> Examples:
        """float32 (N, D), no labels."""
        rng = np.random.default_rng([self.seed, list(self.sizes).index(split)])
        return Examples(torch.from_numpy(self.density.sample(self.sizes[split], rng)).float())
