"""Densities in the plane."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from torch import Tensor

from glow.commands.main import compose
from glow.data import Toy, build_data
from glow.distributions.plane import DENSITIES, DoubleWell, NormalizedDensity, PlaneDensity, density
from glow.errors import UsageError

PLANE = [kind for kind in DENSITIES if kind != "dimer"]


def configured(kind: str) -> PlaneDensity:
    found = density(kind, compose("train", [f"dataset={kind}"]).dataset.noise)
    assert isinstance(found, PlaneDensity)
    return found


@pytest.mark.parametrize("kind", PLANE)
class TestEveryTarget:
    def test_it_integrates_to_its_normalizer(self, kind: str) -> None:
        """With a coarser grid than the one that normalizes energies."""
        density = configured(kind)
        expected, density.side = density.log_normalizer, 200
        density.__dict__.pop("_grid", None)
        density.__dict__.pop("_log_mass", None)
        assert density._log_mass.flatten().logsumexp(0).item() == pytest.approx(expected, abs=2e-3)

    def test_samples_follow_it(self, kind: str) -> None:
        """The shares of sixteen boxes, against the density summed over them."""
        density = configured(kind)
        density.side = 240
        x = torch.from_numpy(density.sample(20_000, np.random.default_rng(0)))
        assert x.shape == (20_000, 2)
        x0, x1, y0, y1 = density.box
        share = torch.exp(density._log_mass - density.log_normalizer)
        expected = share.view(4, 60, 4, 60).sum((1, 3))
        column = ((x[:, 0] - x0) / (x1 - x0) * 4).long().clamp(0, 3)
        row = ((x[:, 1] - y0) / (y1 - y0) * 4).long().clamp(0, 3)
        found = torch.zeros(4, 4, dtype=torch.float64)
        found.index_put_((column, row), torch.ones(len(x), dtype=torch.float64) / len(x), accumulate=True)
        torch.testing.assert_close(found, expected, atol=0.015, rtol=0)

    def test_every_dataset_has_its_configuration(self, kind: str) -> None:
        cfg = compose("train", [f"dataset={kind}"]).dataset
        data = build_data({k: cfg[k] for k in cfg} | {"test_size": 50, "shape": [2]}, 0)
        data.setup("test")
        x = data.arrays("test")[0]
        assert isinstance(data, Toy)
        assert (tuple(x.shape), x.dtype) == ((50, 2), torch.float32)
        truth = data.true_nll(x)
        assert truth is not None
        assert 0 < truth < 4


def test_closed_forms() -> None:
    """Entropies that can be written down."""
    x = torch.from_numpy(density("banana", 0.5).sample(200_000, np.random.default_rng(0)))
    gaussian = 1 + math.log(2 * math.pi)
    banana = -density("banana", 0.5).log_prob(x).mean().item()
    assert banana == pytest.approx(gaussian + math.log(0.5), abs=0.01)
    x = torch.from_numpy(density("bimodal", 0.5).sample(200_000, np.random.default_rng(0)))
    bimodal = -density("bimodal", 0.5).log_prob(x).mean().item()
    assert bimodal == pytest.approx(gaussian + 2 * math.log(0.5) + math.log(2), abs=0.01)


def test_two_moons_are_those_of_scikit_learn() -> None:
    theirs = torch.from_numpy(make_moons(4000, noise=0.05, random_state=0)[0])
    made = density("two_moons", 0.05)
    ours = torch.from_numpy(made.sample(4000, np.random.default_rng(0)))
    torch.testing.assert_close(theirs.mean(0), ours.mean(0), atol=0.05, rtol=0)
    a, b = (made.log_prob(x).mean().item() for x in (theirs, ours))
    assert a == pytest.approx(b, abs=0.05)


def test_without_noise_there_is_no_density() -> None:
    data = Toy(
        kind="rings", noise=0, name="m", shape=[2], batch_size=1, train_size=9, val_size=2, test_size=2
    )
    data.setup("test")
    assert data.true_nll(data.arrays("test")[0]) is None
    assert isinstance(data.density, NormalizedDensity)


def test_the_wells_differ_by_the_integral_of_their_boltzmann_factors() -> None:
    density = DoubleWell()
    a = np.linspace(-6, 6, 200_001)
    weight = np.exp(-(0.25 * a**4 - 2 * a * a + 0.5 * a))
    expected = math.log(weight[a < 0].sum() / weight[a > 0].sum())
    assert density.free_energy_difference == pytest.approx(expected, abs=1e-4)
    log_z = math.log(weight.sum() * (a[1] - a[0]) * math.sqrt(2 * math.pi))
    assert density.log_normalizer == pytest.approx(log_z, abs=1e-4)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_energies_are_those_of_the_paper(number: int) -> None:
    """Rezende & Mohamed 2015, table 1, at points inside the wall."""
    z = torch.rand(50, 2, dtype=torch.float64) * 6 - 3
    z1, z2 = z.unbind(1)

    def w1(v: Tensor) -> Tensor:
        return torch.sin(2 * math.pi * v / 4)

    def w2(v: Tensor) -> Tensor:
        return 3 * torch.exp(-0.5 * ((v - 1) / 0.6) ** 2)

    def w3(v: Tensor) -> Tensor:
        return 3 / (1 + torch.exp(-(v - 1) / 0.3))

    def bump(v: Tensor, sd: float) -> Tensor:
        return torch.exp(-0.5 * (v / sd) ** 2)

    u = {
        1: 0.5 * ((z.norm(dim=1) - 2) / 0.4) ** 2 - torch.log(bump(z1 - 2, 0.6) + bump(z1 + 2, 0.6)),
        2: 0.5 * ((z2 - w1(z1)) / 0.4) ** 2,
        3: -torch.log(bump(z2 - w1(z1), 0.35) + bump(z2 - w1(z1) + w2(z1), 0.35)),
        4: -torch.log(bump(z2 - w1(z1), 0.4) + bump(z2 - w1(z1) + w3(z1), 0.35)),
    }[number]
    torch.testing.assert_close(density(f"energy_{number}", 0).log_prob(z), -u)


def test_unknown_kinds_and_noises() -> None:
    with pytest.raises(UsageError, match="^kind='twomoons' is not one of .*did you mean 'two_moons'"):
        density("twomoons", 0.1)
    with pytest.raises(UsageError, match="^noise must be a number of at least zero"):
        density("rings", -1)
