"""Two particles in the plane, bound in one of two distances."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from glow.distributions.known import Points, TwoStates


class Dimer(TwoStates):
    r"""The Boltzmann density of two particles :math:`x_1, x_2` in the plane, (D,) = (4,), in units of kT.

    .. math:: E = \tfrac12 |c|^2 + 3 ((d - 2)^2 - 1)^2 + d, \qquad c = \tfrac12 (x_1 + x_2), \quad d = |x_1 - x_2|

    The particles are close (d near 1) or apart (near 3), with a barrier between of 4 kT from the first and 2 kT from the
    second (after the dimer of Noé et al. 2019, without its solvent). Of the coordinates c and :math:`x_1 - x_2`, whose Jacobian is one, only d is not trivial: what is known is
    known by an integral over d.
    """

    FROM, TO, CELLS = 1e-9, 5.0, 20_000
    """Beyond 5 the density is below exp(-190)."""

    def log_prob(self, x: Tensor) -> Tensor:
        first, second = x[:, :2], x[:, 2:]
        centre = (first + second) / 2
        return -0.5 * centre.square().sum(1) - self._energy((first - second).norm(dim=1))

    def sample(self, n: int, rng: np.random.Generator) -> Points:
        d, log_mass = self._distances
        cumulative = (log_mass - log_mass.logsumexp(0)).exp().cumsum(0).numpy()
        distance = np.interp(rng.random(n), cumulative, d.numpy() + (self.TO - self.FROM) / self.CELLS / 2)
        angle = 2 * np.pi * rng.random(n)
        half = 0.5 * distance[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)
        centre = rng.standard_normal((n, 2))
        return np.concatenate((centre + half, centre - half), axis=1)

    @staticmethod
    def right(x: Tensor) -> Tensor:
        """Which (..., 4) are apart."""
        return (x[..., :2] - x[..., 2:]).norm(dim=-1) > 2

    @cached_property
    def log_normalizer(self) -> float:
        """2 pi for c, 2 pi for the angle, and the integral over d."""
        return 2 * np.log(2 * np.pi) + self._distances[1].logsumexp(0).item()

    @cached_property
    def free_energy_difference(self) -> float:
        """Of particles apart over close ones, kT, by integration."""
        d, log_mass = self._distances
        return (log_mass[d < 2].logsumexp(0) - log_mass[d > 2].logsumexp(0)).item()

    @staticmethod
    def _energy(d: Tensor) -> Tensor:
        return 3 * ((d - 2).square() - 1).square() + d

    @cached_property
    def _distances(self) -> tuple[Tensor, Tensor]:
        """The middles of cells of d, and the logarithm of d exp(-energy) times their length: both (CELLS,), float64."""
        edges = torch.linspace(self.FROM, self.TO, self.CELLS + 1, dtype=torch.float64)
        d = (edges[1:] + edges[:-1]) / 2
        return d, d.log() - self._energy(d) + (edges[1] - edges[0]).log()
