"""What flows of vectors are trained on and measured against: densities whose formula is known."""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Points = NDArray[np.float64]


class KnownDensity(ABC):
    """A density of vectors, known at least up to a factor."""

    is_density = True
    """Whether there is a density: without noise, all points of some lie on lines."""
    nowhere_zero = True
    """Whether it is above zero everywhere."""

    @property
    @abstractmethod
    def log_normalizer(self) -> float:
        """The logarithm of the integral."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """The logarithm of the density at x (B, D), up to ``log_normalizer``: (B,), nats."""

    @abstractmethod
    def sample(self, n: int, rng: np.random.Generator) -> Points:
        """Draw points (n, D)."""

    def observables(self, x: Tensor, log_w: Tensor) -> dict[str, float]:
        """What else is known of this density, beside its estimate from weighted points.

        Args:
            x: points (B, D).
            log_w: logarithms (B,) of their weights, up to a constant.
        """
        return {}


class TwoStates(KnownDensity):
    """A Boltzmann density of a system with two states, in units of kT (Noé et al. 2019)."""

    @staticmethod
    @abstractmethod
    def right(x: Tensor) -> Tensor:
        """Which points (..., D) are in the right state."""

    @property
    @abstractmethod
    def free_energy_difference(self) -> float:
        """Of the right state over the left one, kT, by integration."""

    def observables(self, x: Tensor, log_w: Tensor) -> dict[str, float]:
        """``free_energy_difference``, and ``free_energy_estimate`` from the weighted points."""
        right = self.right(x)
        estimate = (log_w[~right].logsumexp(0) - log_w[right].logsumexp(0)).item()
        return {"free_energy_difference": self.free_energy_difference, "free_energy_estimate": estimate}
