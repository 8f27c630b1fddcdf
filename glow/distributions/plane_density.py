"""What is known of a density in the plane: samples, the integral and probabilities, by a grid where nothing better is."""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from glow.distributions.known import KnownDensity, Points


def midpoints(n: int) -> Points:
    """The middles of n equal parts of [0, 1]."""
    return (np.arange(n) + 0.5) / n


class PlaneDensity(KnownDensity):
    """A density in the plane, D = 2, known at least up to a factor."""

    box = (-4.0, 4.0, -4.0, 4.0)
    """x from and to, y from and to: all but a negligible part of the mass lies inside."""
    side = 600
    """Cells of the grid on which integrals are taken, along each side of the box."""

    def sample(self, n: int, rng: np.random.Generator) -> Points:
        """Draw points (n, 2): here cells of the grid by their mass and a uniform point in each, exactly where a
        density overrides this."""
        mass = self._log_mass.flatten()
        cell = rng.choice(len(mass), size=n, p=(mass - mass.logsumexp(0)).exp().numpy())
        x0, x1, y0, y1 = self.box
        u = (np.stack(np.divmod(cell, self.side), axis=1) + rng.random((n, 2))) / self.side
        return np.array([x0, y0]) + u * np.array([x1 - x0, y1 - y0])

    @cached_property
    def log_normalizer(self) -> float:
        """The logarithm of the integral, by the midpoint rule."""
        return self._log_mass.flatten().logsumexp(0).item()

    def log_probability(self, where: Callable[[Tensor], Tensor]) -> float:
        """The logarithm of the probability of the points (B, 2) for which ``where`` is true, by the same rule."""
        return self._log_mass[where(self._grid)].logsumexp(0).item() - self.log_normalizer

    @cached_property
    def _grid(self) -> Tensor:
        """The middles of the cells, float64 (side, side, 2)."""
        x0, x1, y0, y1 = self.box
        t = torch.from_numpy(midpoints(self.side))
        return torch.stack(torch.meshgrid(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t, indexing="ij"), dim=-1)

    @cached_property
    def _log_mass(self) -> Tensor:
        """Log-density times area of every cell (side, side)."""
        x0, x1, y0, y1 = self.box
        log_area = math.log((x1 - x0) * (y1 - y0) / self.side**2)
        return torch.stack([self.log_prob(row) for row in self._grid]) + log_area


class NormalizedDensity(PlaneDensity):
    """A density that is normalized, around lines or centres.

    Args:
        noise: the standard deviation around them; see each class.
    """

    log_normalizer = 0.0

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.is_density = noise > 0
