"""The posteriors of simulators are those of what they simulate."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from glow.distributions.simulators import SIMULATORS, LinearGaussian, TwoMoons
from glow.errors import UsageError

INSIDE, CUT = (0.0, 0.0), (-1.0, 0.1)
"""Observations of two moons whose crescents lie inside the prior's square, and are cut by it."""


def moons_on_a_grid(x: tuple[float, float], side: int = 600) -> tuple[Tensor, Tensor, float]:
    """Parameters (side^2, 2), their log-density given x, and the area of a cell: a third as wide as the crescents are."""
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) * 2 / side - 1
    theta = torch.cartesian_prod(axis, axis)
    simulator, observed = TwoMoons(), torch.tensor(x, dtype=torch.float64)
    evidence = simulator._log_evidence(observed[None])
    simulator._log_evidence = lambda x: evidence  # once, not for every cell
    return theta, simulator.log_posterior(theta, observed.expand(len(theta), 2)), (2 / side) ** 2


@pytest.mark.parametrize("x", [INSIDE, CUT])
def test_two_moons_integrate_to_one_and_samples_follow(x: tuple[float, float]) -> None:
    theta, log_prob, area = moons_on_a_grid(x)
    assert log_prob.exp().sum().item() * area == pytest.approx(1, abs=0.02)
    drawn = TwoMoons().sample_posterior(np.array(x), 20_000, np.random.default_rng(0))
    assert drawn.shape == (20_000, 2)
    assert np.abs(drawn).max() <= 1
    p = log_prob.exp() / log_prob.exp().sum()
    mean = p @ theta
    sd = (p @ (theta - mean) ** 2).sqrt()
    assert drawn.mean(0) == pytest.approx(mean.numpy(), abs=0.01)
    assert drawn.std(0) == pytest.approx(sd.numpy(), abs=0.01)
    upper = (p * (theta[:, 0] + theta[:, 1] > 0)).sum().item()
    assert (drawn.sum(1) > 0).mean() == pytest.approx(upper, abs=0.015)


def test_two_moons_are_cut_at_the_prior() -> None:
    evidence = TwoMoons()._log_evidence(torch.tensor([INSIDE, CUT])).exp()
    assert evidence[0] == 2  # both crescents
    assert 0.1 < evidence[1] < 1.9
    outside = torch.tensor([[1.1, 0.0]])
    assert TwoMoons().log_posterior(outside, torch.tensor([INSIDE])) == -math.inf
    rare = TwoMoons().sample_posterior(np.array([-1.09, 0.0]), 20, np.random.default_rng(0))
    assert rare.shape == (20, 2)
    with pytest.raises(UsageError, match=r"no parameters of the prior .* observation \[5.0, 0.0\]"):
        TwoMoons().sample_posterior(np.array([5.0, 0.0]), 3, np.random.default_rng(0))


@pytest.mark.parametrize("kind", SIMULATORS)
def test_pairs_of_the_simulator_are_pairs_of_the_posterior(kind: str) -> None:
    """theta given x from the posterior is to theta's own x as the theta of the simulation: simulation-based calibration."""
    simulator, rng = SIMULATORS[kind](), np.random.default_rng(1)
    theta = simulator.sample_prior(600, rng)
    x = simulator.simulate(theta, rng)
    assert x.shape == (600, simulator.observed)
    drawn = np.stack([simulator.sample_posterior(each, 19, rng) for each in x])  # (600, 19, D)
    ranks = (drawn < theta[:, None]).sum(1)  # uniform on 0 .. 19
    for dimension in range(simulator.parameters):
        counts = np.bincount(ranks[:, dimension], minlength=20)
        assert ((counts - 30) ** 2 / 30).sum() < 50  # chi-square with 19 degrees of freedom: p = 1e-4
    known = simulator.log_posterior(torch.from_numpy(theta), torch.from_numpy(x))
    again = simulator.log_posterior(torch.from_numpy(drawn[:, 0]), torch.from_numpy(x))
    assert known.isfinite().all()
    assert known.mean().item() == pytest.approx(again.mean().item(), abs=0.25)


def test_the_linear_gaussian_by_bayes() -> None:
    """Prior times likelihood over posterior is the same for all parameters."""
    simulator = LinearGaussian()
    theta, x = torch.randn(2, 50, 10, dtype=torch.float64)
    x[:] = x[0]
    normal = torch.distributions.Normal(*torch.tensor([0.0, 0.1]).double().sqrt())
    joint = normal.log_prob(theta).sum(1) + normal.log_prob(x - theta).sum(1)
    evidence = joint - simulator.log_posterior(theta, x)
    torch.testing.assert_close(evidence, evidence[:1].expand(50))
    marginal = torch.distributions.Normal(*torch.tensor([0.0, 0.2]).double().sqrt()).log_prob(x[0]).sum()
    torch.testing.assert_close(evidence[0], marginal)


def test_the_noise_of_two_moons() -> None:
    simulator, n = TwoMoons(), 20_000
    x = simulator.simulate(np.tile([0.3, 0.5], (n, 1)), np.random.default_rng(0))
    noise = x - np.array([-0.8, 0.2]) / math.sqrt(2) - np.array([0.25, 0.0])
    r = np.hypot(*noise.T)
    assert (r.mean(), r.std()) == pytest.approx((0.1, 0.01), abs=3e-4)
    assert (noise[:, 0] > 0).all()
    angle = np.arctan2(noise[:, 1], noise[:, 0])
    assert (angle.mean(), angle.std()) == pytest.approx((0, math.pi / math.sqrt(12)), abs=0.03)
