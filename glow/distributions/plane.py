"""Densities in the plane, and the table of all that are known."""

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from glow.distributions.dimer import Dimer
from glow.distributions.known import KnownDensity, Points, TwoStates
from glow.distributions.plane_density import NormalizedDensity, PlaneDensity, midpoints
from glow.errors import check_choice, check_positive

__all__ = ["DENSITIES", "DoubleWell", "NormalizedDensity", "PlaneDensity", "density"]


class RoundMixture(NormalizedDensity):
    """An even mixture of round Gaussians, of standard deviation ``noise``, around centres.

    A curve is a row of centres, so close that the densities of ``conf/dataset`` have no ripples (below 1e-10).
    """

    centres: Points
    """(K, 2)."""

    def log_prob(self, x: Tensor) -> Tensor:
        centres = torch.from_numpy(self.centres).to(x)
        exponent = torch.cat([self._exponent(part, centres) for part in x.split(1000)])
        return exponent - math.log(len(centres) * 2 * math.pi * self.noise**2)

    def _exponent(self, x: Tensor, centres: Tensor) -> Tensor:
        square = (x[:, None] - centres).square().sum(2)  # (B, K)
        return (square / (-2 * self.noise**2)).logsumexp(1)

    def sample(self, n: int, rng: np.random.Generator) -> Points:
        chosen = self.centres[rng.integers(len(self.centres), size=n)]
        return chosen + self.noise * rng.standard_normal((n, 2))


def _circle(angle: Points, radius: Points | float = 1.0) -> Points:
    """(n, 2)."""
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1)


class TwoMoons(RoundMixture):
    """Two interleaved half circles (those of scikit-learn's ``make_moons``)."""

    upper = _circle(np.pi * midpoints(300))
    centres = np.concatenate((upper, np.array([1.0, 0.5]) - upper))
    box = (-1.5, 2.5, -1.0, 1.5)


class Bimodal(RoundMixture):
    """Two Gaussians, four apart."""

    centres = np.array([[-2.0, 0.0], [2.0, 0.0]])


class EightGaussians(RoundMixture):
    """Eight Gaussians on a circle of radius 2."""

    centres = _circle(np.arange(8) * np.pi / 4, 2.0)


class Rings(RoundMixture):
    """Four concentric circles of radius 0.5, 1, 1.5 and 2, equally likely."""

    centres = np.concatenate([_circle(2 * np.pi * midpoints(250), radius) for radius in (0.5, 1.0, 1.5, 2.0)])
    box = (-3.0, 3.0, -3.0, 3.0)


class TwoSpirals(RoundMixture):
    """Two arms of one and a half turns, denser at the centre."""

    angle = 3 * np.pi * np.sqrt(midpoints(500))
    arm = _circle(angle, angle / 3)
    centres = np.concatenate((arm, -arm))


class Pinwheel(NormalizedDensity):
    """Five blades, bent by an angle that grows with the radius: 0.3 long and ``noise`` wide (standard deviations)."""

    blades, length = 5, 0.3

    def log_prob(self, x: Tensor) -> Tensor:
        # Turning by an angle that depends on the radius keeps areas.
        radius = x.norm(dim=1, keepdim=True)
        angle = torch.atan2(x[:, 1:], x[:, :1]) - self._turn(radius)  # (B, 1)
        angle = angle - torch.arange(self.blades, device=x.device) * (
            2 * math.pi / self.blades
        )  # (B, blades)
        along = (radius * angle.cos() - 1) / self.length
        across = radius * angle.sin() / self.noise
        constant = math.log(self.blades * 2 * math.pi * self.length * self.noise)
        return (-0.5 * (along**2 + across**2)).logsumexp(1) - constant

    def sample(self, n: int, rng: np.random.Generator) -> Points:
        blade = rng.integers(self.blades, size=n) * 2 * np.pi / self.blades
        u = np.array([1.0, 0.0]) + rng.standard_normal((n, 2)) * np.array([self.length, self.noise])
        radius = np.hypot(*u.T)
        return _circle(np.arctan2(u[:, 1], u[:, 0]) + blade + self._turn(radius), radius)

    @staticmethod
    def _turn(radius):  # type: ignore[no-untyped-def]  # of either kind of array
        return 0.7 * radius**2


class Checkerboard(NormalizedDensity):
    """Uniform on the eight dark squares of a 4x4 board of side 8. It has no noise: its edges are sharp."""

    nowhere_zero = False

    def __init__(self, noise: float) -> None:
        super().__init__(noise)
        self.is_density = True

    def log_prob(self, x: Tensor) -> Tensor:
        square = (x + 4).div(2).floor()
        dark = (square.sum(1) % 2 == 0) & (x.abs() < 4).all(1)
        return torch.where(dark, -math.log(32), -math.inf).to(x.dtype)

    def sample(self, n: int, rng: np.random.Generator) -> Points:
        column, pair = rng.integers(4, size=n), rng.integers(2, size=n)
        squares = np.stack((column, 2 * pair + column % 2), axis=1)
        return 2 * (squares + rng.random((n, 2))) - 4


class Banana(NormalizedDensity):
    r""":math:`x_1 \sim N(0, 1)`, :math:`x_2 \sim N(x_1^2 - 1, \mathrm{noise}^2)`."""

    box = (-5.5, 5.5, -4.0, 26.0)

    def log_prob(self, x: Tensor) -> Tensor:
        a, b = x.unbind(1)
        standard = (b - a * a + 1) / self.noise
        return -0.5 * (a * a + standard * standard) - math.log(2 * math.pi * self.noise)

    def sample(self, n: int, rng: np.random.Generator) -> Points:
        a, b = rng.standard_normal((2, n))
        return np.stack((a, a * a - 1 + self.noise * b), axis=1)


class DoubleWell(TwoStates, PlaneDensity):
    r"""The Boltzmann density of :math:`E = x_1^4/4 - 2 x_1^2 + x_1/2 + x_2^2/2`, in units of kT.

    Two wells near -2 and 2 with a barrier of about 4 kT between them, the left one 2 kT deeper (after Noé et al. 2019,
    section "Double well", with a lower barrier).
    """

    box = (-4.5, 4.5, -6.5, 6.5)

    def log_prob(self, x: Tensor) -> Tensor:
        a, b = x.unbind(1)
        return -(0.25 * a**4 - 2 * a * a + 0.5 * a + 0.5 * b * b)

    @staticmethod
    def right(x: Tensor) -> Tensor:
        """Which points (..., 2) are in the right well."""
        return x[..., 0] > 0

    @cached_property
    def free_energy_difference(self) -> float:
        """Of the right well over the left one, kT, by integration."""
        return self.log_probability(lambda x: ~self.right(x)) - self.log_probability(self.right)


class Energy(PlaneDensity):
    r"""The four energies of Rezende & Mohamed 2015, table 1: density :math:`e^{-U(z)}`.

    U2 to U4 have no end along the first axis: a wall of :math:`8 (|z_1| - 4)^2` ends them at 4 on both sides.

    Args:
        number: 1 to 4.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.box = (-4.0, 4.0, -4.0, 4.0) if number == 1 else (-5.5, 5.5, -7.5, 5.5)

    def log_prob(self, x: Tensor) -> Tensor:
        a, b = x.unbind(1)
        if self.number == 1:
            modes = torch.stack([-0.5 * ((a - c) / 0.6) ** 2 for c in (-2, 2)])
            return modes.logsumexp(0) - 0.5 * ((x.norm(dim=1) - 2) / 0.4) ** 2
        wall = 8 * (a.abs() - 4).clamp(min=0) ** 2
        w1 = torch.sin(math.pi / 2 * a)
        if self.number == 2:
            return -0.5 * ((b - w1) / 0.4) ** 2 - wall
        w2 = 3 * torch.exp(-0.5 * ((a - 1) / 0.6) ** 2)
        w3 = 3 * torch.sigmoid((a - 1) / 0.3)
        (first, second), w = ((0.35, 0.35), w2) if self.number == 3 else ((0.4, 0.35), w3)
        arms = torch.stack([-0.5 * ((b - w1) / first) ** 2, -0.5 * ((b - w1 + w) / second) ** 2])
        return arms.logsumexp(0) - wall


DENSITIES: dict[str, Callable[[float], KnownDensity]] = {
    "two_moons": TwoMoons,
    "bimodal": Bimodal,
    "eight_gaussians": EightGaussians,
    "pinwheel": Pinwheel,
    "checkerboard": Checkerboard,
    "rings": Rings,
    "two_spirals": TwoSpirals,
    "banana": Banana,
    "double_well": lambda noise: DoubleWell(),
    "dimer": lambda noise: Dimer(),
    "energy_1": lambda noise: Energy(1),
    "energy_2": lambda noise: Energy(2),
    "energy_3": lambda noise: Energy(3),
    "energy_4": lambda noise: Energy(4),
}
"""The densities by name, each made from its noise."""


def density(kind: str, noise: float) -> KnownDensity:
    """The density of a name.

    Args:
        kind: a key of ``DENSITIES``.
        noise: how far it spreads around its lines or centres; the Boltzmann densities have none.

    Raises:
        UsageError: an unknown kind, or a noise below zero.

    >>> density("bimodal", noise=0.5).log_prob(torch.tensor([[2.0, 0.0]])).exp()  # half of 1 / (2 pi 0.5^2)
    tensor([0.3183])
    >>> density("rings", noise=0.1).sample(3, np.random.default_rng(0)).shape
    (3, 2)
    >>> round(DoubleWell().free_energy_difference, 2)  # kT
    1.86
    """
    check_choice("kind", kind, DENSITIES)
    check_positive("noise", noise, zero=True)
    return DENSITIES[kind](noise)
