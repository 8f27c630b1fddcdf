"""Two particles in one of two distances."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from glow.distributions.dimer import Dimer

DIMER = Dimer()


def boltzmann(d: float) -> float:
    return d * math.exp(-3 * ((d - 2) ** 2 - 1) ** 2 - d)


def integral(start: float, end: float) -> float:
    return quad(boltzmann, start, end, epsabs=1e-12)[0]


def test_the_normalizer_and_the_free_energy_are_those_of_the_integral() -> None:
    assert DIMER.log_normalizer == pytest.approx(math.log(4 * math.pi**2 * integral(0, 6)), abs=1e-6)
    expected = math.log(integral(0, 2) / integral(2, 6))
    assert DIMER.free_energy_difference == pytest.approx(expected, abs=1e-3)
    assert expected > 0.5


def test_the_density_integrates_to_its_normalizer() -> None:
    """By importance sampling in all four dimensions: the centre from a normal, the rest from a wide one."""
    source = torch.Generator().manual_seed(0)
    centre, apart = torch.randn(2, 400_000, 2, generator=source, dtype=torch.float64)
    x = torch.cat((centre + apart, centre - apart), dim=1)  # x1 - x2 = 2 apart: a Jacobian of 4
    log_q = -0.5 * (centre.square() + apart.square()).sum(1) - 2 * math.log(2 * math.pi) - math.log(4)
    estimate = (DIMER.log_prob(x) - log_q).logsumexp(0).item() - math.log(len(x))
    assert estimate == pytest.approx(DIMER.log_normalizer, abs=0.02)


def test_samples_follow_it() -> None:
    x = torch.from_numpy(DIMER.sample(100_000, np.random.default_rng(0)))
    assert x.shape == (100_000, 4)
    first, second = x[:, :2], x[:, 2:]
    d = (first - second).norm(dim=1)
    for a, b in ((0, 0.8), (0.8, 1.2), (1.2, 2), (2, 3), (3, 6)):
        share = ((d >= a) & (d < b)).double().mean().item()
        assert share == pytest.approx(integral(a, b) / integral(0, 6), abs=0.006)
    assert torch.cov(((first + second) / 2).T).numpy() == pytest.approx(np.eye(2), abs=0.02)
    assert (first - second).mean(0).abs().max() < 0.02
    assert DIMER.right(x).double().mean().item() == pytest.approx(integral(2, 6) / integral(0, 6), abs=0.006)


def test_turned_and_exchanged_it_is_the_same() -> None:
    x = torch.randn(50, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(2, 2, dtype=torch.float64))[0]
    turned = (x.unflatten(1, (2, 2)) @ turn).flatten(1)
    torch.testing.assert_close(DIMER.log_prob(turned), DIMER.log_prob(x))
    torch.testing.assert_close(DIMER.log_prob(x.roll(2, 1)), DIMER.log_prob(x))
