"""Tones in noise, and mu-law levels."""

import math

import pytest
import torch

from glow.data import Tones
from glow.errors import UsageError
from glow.mu_law import compand, sound


def tones(**options: object) -> Tones:
    sizes = {"train_size": 400, "val_size": 50, "test_size": 200}
    common = {"name": "tones", "shape": [1, 64], "batch_size": 8, "grey_levels": 256}
    data = Tones(**{"sample_rate": 8000, "noise": 0.05, **sizes, **common, **options})  # type: ignore[arg-type]
    data.setup("fit")
    data.setup("test")
    return data


@pytest.mark.parametrize("levels", [3, 6])
def test_probabilities_of_all_signals_sum_to_one(levels: int) -> None:
    axis = torch.arange(levels)
    every = torch.cartesian_prod(*[axis] * 4)[:, None]
    log_prob = tones(shape=[1, 4], grey_levels=levels).log_prob(every)
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


def test_the_entropy_is_that_of_the_samples() -> None:
    """Of a pair of levels, as often as they occur."""
    data = tones(shape=[1, 2], grey_levels=4, train_size=20_000, noise=0.3)
    x = data.arrays("train")[0]
    share = (x[:, 0, 0].long() * 4 + x[:, 0, 1]).bincount(minlength=16).double() / len(x)
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4))[:, None]
    torch.testing.assert_close(share, data.log_prob(every).exp(), atol=0.015, rtol=0)
    entropy = -(share * share.clamp(min=1e-9).log()).sum().item()
    assert data.true_nll(x) == pytest.approx(entropy, abs=0.02)


def test_noise_makes_entropy_and_pitches_are_told_apart() -> None:
    quiet, loud = (tones(noise=n) for n in (0.02, 0.1))
    bits = [d.true_nll(d.arrays("test")[0]) / 64 / math.log(2) for d in (quiet, loud)]
    assert bits[0] < bits[1] - 1.5
    assert not torch.equal(quiet.arrays("train")[0][:50], quiet.arrays("val")[0])
    assert torch.equal(quiet.arrays("test")[0], tones(noise=0.02).arrays("test")[0])


def test_mu_law_levels_come_back_from_their_sound() -> None:
    levels = torch.arange(256)
    assert torch.equal(compand(sound(levels, 256)), levels.to(torch.uint8))
    x = torch.linspace(-1, 1, 1001)
    assert ((sound(compand(x), 256) - x).abs() <= 0.023 * x.abs() + 1e-4).all()
    coarse = compand(x).long() * 16 // 256
    assert torch.equal(compand(sound(coarse, 16)).long() * 16 // 256, coarse)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"noise": 0}, "dataset.noise"), ({"sample_rate": 0.5}, "dataset.sample_rate"), ({"test_size": 0}, "dataset.test_size")],
)  # fmt: skip
def test_bad_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tones(**wrong)
