"""Simulators whose posterior is known: what inference from simulations is measured against."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glow.distributions.known import Points
from glow.distributions.plane_density import midpoints
from glow.errors import UsageError

TRIES = 100
"""Rounds of at least 1,000 draws without one inside the prior, after which an observation is held to be impossible."""


class Simulator(ABC):
    r"""A prior of parameters :math:`\theta` (D,), a random experiment that gives an observation x (K,), and the posterior."""

    parameters: int
    """D."""
    observed: int
    """K."""

    @abstractmethod
    def sample_prior(self, n: int, rng: np.random.Generator) -> Points:
        """Parameters (n, D)."""

    @abstractmethod
    def simulate(self, theta: Points, rng: np.random.Generator) -> Points:
        """An observation for each of the parameters (n, D): (n, K)."""

    @abstractmethod
    def log_posterior(self, theta: Tensor, x: Tensor) -> Tensor:
        """The normalized log-density of parameters (N, D), each given its observation (N, K): (N,), nats."""

    @abstractmethod
    def sample_posterior(self, x: Points, n: int, rng: np.random.Generator) -> Points:
        """Parameters (n, D) given one observation (K,)."""


class LinearGaussian(Simulator):
    r""":math:`\theta \sim N(0, 0.1)` in ten dimensions, :math:`x \sim N(\theta, 0.1)`: the posterior is
    :math:`N(x / 2, 0.05)` (Lueckmann et al. 2021, appendix T.1; variances)."""

    parameters = observed = 10
    variance = 0.1

    def sample_prior(self, n: int, rng: np.random.Generator) -> Points:
        return math.sqrt(self.variance) * rng.standard_normal((n, self.parameters))

    def simulate(self, theta: Points, rng: np.random.Generator) -> Points:
        return theta + math.sqrt(self.variance) * rng.standard_normal(theta.shape)

    def log_posterior(self, theta: Tensor, x: Tensor) -> Tensor:
        square = (theta - x / 2).square().sum(1) / (self.variance / 2)
        return -0.5 * (square + self.parameters * math.log(2 * math.pi * self.variance / 2))

    def sample_posterior(self, x: Points, n: int, rng: np.random.Generator) -> Points:
        return x / 2 + math.sqrt(self.variance / 2) * rng.standard_normal((n, self.parameters))


class TwoMoons(Simulator):
    r"""The posterior is two crescents (Greenberg et al. 2019, supplement; Lueckmann et al. 2021, appendix T.8).

    .. math:: x = (r \cos a + 0.25 - |s|, \; r \sin a + t), \qquad
        s = (\theta_1 + \theta_2) / \sqrt 2, \quad t = (\theta_2 - \theta_1) / \sqrt 2

    with :math:`\theta` uniform on :math:`[-1, 1]^2`, a on :math:`[-\pi/2, \pi/2]` and :math:`r \sim N(0.1, 0.01^2)`.
    (s, t) is :math:`\theta` turned by 45 degrees, so that x says what s and t are but for the noise and the sign of s. The
    prior is :math:`|s| + |t| \le \sqrt 2`, which cuts the crescents of some observations off.
    """

    parameters = observed = 2
    radius, width, centre = 0.1, 0.01, 0.25
    ANGLES, RADII = 200, 10
    """Cells of the noise, by which what the prior's square cuts off is measured."""

    def sample_prior(self, n: int, rng: np.random.Generator) -> Points:
        return rng.uniform(-1, 1, (n, 2))

    def simulate(self, theta: Points, rng: np.random.Generator) -> Points:
        s, t = (theta @ np.array([[1, -1], [1, 1]]) / math.sqrt(2)).T
        return self._noise(len(theta), rng) + np.stack((-np.abs(s), t), axis=1)

    def log_posterior(self, theta: Tensor, x: Tensor) -> Tensor:
        a, b = theta.unbind(1)
        noise = (
            x - torch.stack((-(a + b).abs(), b - a), dim=1) / math.sqrt(2) - x.new_tensor([self.centre, 0])
        )
        r = noise.norm(dim=1)
        log_likelihood = (
            -0.5 * ((r - self.radius) / self.width).square()
            - math.log(math.sqrt(2 * math.pi) * self.width * math.pi)
            - r.log()
        )
        possible = (noise[:, 0] > 0) & (theta.abs() <= 1).all(1)
        return torch.where(possible, log_likelihood - self._log_evidence(x), -math.inf)

    def sample_posterior(self, x: Points, n: int, rng: np.random.Generator) -> Points:
        """Exactly: the noise is drawn, which leaves two parameters, and what is outside the prior is drawn again.

        Raises:
            UsageError: no parameters of the prior give this observation.
        """
        kept, found, tried = [np.empty((0, 2))], 0, 0
        while found < n:
            s, t = self._turned(x, self._noise(max(n, 1000), rng))
            s = s[inside := self._inside(s, t)] * rng.choice((-1, 1), inside.sum())
            tried += 1
            if not len(s) and not found and tried == TRIES:
                raise UsageError(
                    f"no parameters of the prior of the simulator give the observation {x.tolist()}"
                )
            kept.append(np.stack((s - t[inside], s + t[inside]), axis=1) / math.sqrt(2))
            found += len(s)
        return np.concatenate(kept)[:n]

    def _noise(self, n: int, rng: np.random.Generator) -> Points:
        """What is added to (-|s|, t): (n, 2)."""
        return self._crescent(
            np.pi * (rng.random(n) - 0.5), self.radius + self.width * rng.standard_normal(n)
        )

    def _crescent(self, a: Points, r: Points) -> Points:
        return np.stack((r * np.cos(a) + self.centre, r * np.sin(a)), axis=-1)

    @staticmethod
    def _turned(x: Points, noise: Points) -> tuple[Points, Points]:
        """|s|, or something negative where there is none, and t."""
        return noise[..., 0] - x[..., 0], x[..., 1] - noise[..., 1]

    @staticmethod
    def _inside(s: Points, t: Points) -> NDArray[np.bool_]:
        return (s >= 0) & (s + np.abs(t) <= math.sqrt(2))

    def _log_evidence(self, x: Tensor) -> Tensor:
        """The logarithm of the likelihood's integral over the prior's square: two crescents, as far as they are inside."""
        observations = x.detach().cpu().double().numpy()[:, None]
        inside = [
            self._inside(*self._turned(part, self._cells)).mean(1)
            for part in np.split(observations, range(500, len(x), 500))
        ]
        share = np.concatenate(inside).clip(1 / len(self._cells))  # what gave x is more than none
        return torch.from_numpy(np.log(2 * share)).to(x)

    @cached_property
    def _cells(self) -> Points:
        """Equally probable values of the noise (ANGLES * RADII, 2)."""
        normal = torch.special.ndtri(torch.from_numpy(midpoints(self.RADII))).numpy()
        a, r = np.meshgrid(np.pi * (midpoints(self.ANGLES) - 0.5), self.radius + self.width * normal)
        return self._crescent(a.ravel(), r.ravel())


SIMULATORS: dict[str, Callable[[], Simulator]] = {"linear_gaussian": LinearGaussian, "two_moons": TwoMoons}
"""The simulators by name."""
