"""Two-dimensional distributions, drawn on the spot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import make_moons

from glow.data.base import ArrayData, Arrays, Split
from glow.errors import check_choice, check_positive, check_size


def two_moons(n: int, rng: np.random.Generator, noise: float = 0.05) -> NDArray[np.float64]:
    """Two interleaved half circles with Gaussian noise (scikit-learn's ``make_moons``): (n, 2)."""
    return make_moons(n, noise=noise, random_state=int(rng.integers(2**31)))[0]


def eight_gaussians(n: int, rng: np.random.Generator, noise: float = 0.2) -> NDArray[np.float64]:
    """Eight equal Gaussians of standard deviation ``noise`` on a circle of radius 2: (n, 2)."""
    angle = rng.integers(8, size=n) * np.pi / 4
    centre = 2 * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    return centre + noise * rng.standard_normal((n, 2))


TOYS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "two_moons": two_moons,
    "eight_gaussians": eight_gaussians,
}


class Toy(ArrayData):
    """Points in the plane, float32 (N, 2); train, validation and test are drawn independently.

    Args:
        kind: a key of ``TOYS``.
        noise: standard deviation of its noise.
        train_size: points to train on.
        test_size: points to test on.
        common: see ``ArrayData``; ``val_size`` is a count or a fraction of ``train_size``.
    """

    def __init__(self, *, kind: str, noise: float, train_size: int, test_size: int, **common: Any) -> None:
        super().__init__(**common)
        check_choice("dataset.kind", kind, TOYS)
        check_positive("dataset.noise", noise, zero=True)
        check_positive("dataset.train_size", train_size, integer=True)
        check_positive("dataset.test_size", test_size, integer=True)
        self.kind = kind
        self.noise = noise
        val_size = check_size("dataset.val_size", self.val_size, train_size)
        self.sizes: dict[Split, int] = {"train": train_size, "val": val_size, "test": test_size}

    def load(self, split: Split) -> Arrays:
        """float32 (N, 2), no labels."""
        rng = np.random.default_rng([self.seed, list(self.sizes).index(split)])
        points = TOYS[self.kind](self.sizes[split], rng, self.noise)
        return torch.from_numpy(points).float(), None
