"""Base distributions."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from glow.distributions.latent import Base, Mixture, StandardNormal, StudentT, Uniform
from glow.errors import UsageError
from glow.seeds import draw

BASES: dict[str, Base] = {
    "normal": StandardNormal(),
    "uniform": Uniform(),
    "student_t": StudentT(3.5),
    "mixture": Mixture(2, 3),
}


@pytest.fixture(params=BASES)
def base(request: pytest.FixtureRequest) -> Base:
    made = BASES[request.param]
    if isinstance(made, Mixture):
        with torch.no_grad():
            made.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
            made.log_sds.copy_(torch.tensor([[-1.0, 0.5], [0.0, -0.5], [0.3, 0.3]]))
    return made


def grid(base: Base, reach: float) -> Tensor:
    """Points of one axis, closer where the density has edges."""
    low, high, n = (-1.0, 2.0, 1501) if isinstance(base, Uniform) else (-reach, reach, 1201)
    return torch.linspace(low, high, n, dtype=torch.float64) + 1e-3


def test_the_density_integrates_to_one(base: Base) -> None:
    axis = grid(base, 60)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = base.double().log_prob(points).exp().sum() * (axis[1] - axis[0]) ** 2
    base.float()
    assert mass.item() == pytest.approx(1, abs=2e-3)


def test_samples_follow_the_density(base: Base) -> None:
    """Shares of half planes and of a disc, against the density summed over a grid."""
    x = base.sample(40_000, (2,), generator=torch.Generator().manual_seed(0)).detach()
    assert x.shape == (40_000, 2)
    axis = grid(base, 30)
    points = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = base.double().log_prob(points).exp()
    base.float()
    mass /= mass.sum()
    for where in (
        lambda v: v[:, 0] > 0.4,
        lambda v: v[:, 1] > 1.1,
        lambda v: v.norm(dim=1) < 0.8,
        lambda v: v.abs().amax(1) > 3,
    ):
        assert where(x).double().mean().item() == pytest.approx(mass[where(points)].sum().item(), abs=0.02)


def test_samples_repeat_with_the_generator(base: Base) -> None:
    a, b = (base.sample(5, (2,), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, base.sample(5, (2,), generator=torch.Generator().manual_seed(4)))


def test_a_low_temperature_brings_samples_together(base: Base) -> None:
    source = torch.Generator()
    wide, narrow = (
        base.sample(4000, (2,), temperature=t, generator=source.manual_seed(0)).detach() for t in (1.0, 0.1)
    )
    if isinstance(base, Mixture):
        assert torch.cdist(narrow, base.means.detach()).amin(1).mean() < 0.3
    else:
        torch.testing.assert_close(narrow.std(0), 0.1 * wide.std(0))


def test_student_t_is_that_of_scipy() -> None:
    x = torch.linspace(-5, 5, 11, dtype=torch.float64)[:, None]
    expected = torch.from_numpy(stats.t(3.5).logpdf(x[:, 0].numpy()))
    torch.testing.assert_close(StudentT(3.5).double().log_prob(x).detach(), expected, rtol=1e-6, atol=1e-6)
    drawn = StudentT(3.5).sample(20_000, (1,), generator=torch.Generator().manual_seed(0)).detach()
    assert stats.kstest(drawn[:, 0].numpy(), stats.t(3.5).cdf).pvalue > 0.01


def test_gradients_reach_every_parameter(base: Base) -> None:
    if not list(base.parameters()):
        pytest.skip("nothing to learn")
    base.zero_grad()
    base.log_prob(torch.randn(20, 2)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in base.parameters())


def test_student_t_has_gradients_for_every_random_number(monkeypatch: pytest.MonkeyPatch) -> None:
    base = StudentT(4.0)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.zeros(size))
    base.sample(5, (2,)).square().sum().backward()
    assert base.log_degrees.grad is not None
    assert base.log_degrees.grad.isfinite()
    assert base.log_prob(torch.full((1, 2), torch.nan)).isnan()


def test_outside_the_cube_is_nothing() -> None:
    found = Uniform().log_prob(torch.tensor([[0.5, 0.5], [0.5, 1.5], [-0.1, 0.2]]))
    assert found.tolist() == [0, -math.inf, -math.inf]


def test_no_samples_and_no_spread(base: Base) -> None:
    assert base.sample(0, (2,)).shape == (0, 2)
    still = base.sample(50, (2,), temperature=0.0).detach()
    assert len(still.unique(dim=0)) == (3 if isinstance(base, Mixture) else 1)
    with pytest.raises(UsageError, match="n must be an integer of at least zero, got -1"):
        base.sample(-1, (2,))
    with pytest.raises(UsageError, match=r"temperature must be a number of at least zero, got -0\.5"):
        base.sample(1, (2,), temperature=-0.5)


def test_numbers_are_drawn_where_the_generator_is() -> None:
    """The sampler is told the generator's device; the numbers go to the one that was asked for."""
    devices: list[torch.device | None] = []

    def sampler(*size: int, generator: torch.Generator | None, device: torch.device | None) -> Tensor:
        devices.append(device)
        return torch.zeros(size)

    meta = torch.device("meta")
    assert draw(sampler, 2, 3, generator=torch.Generator(), device=meta).device == meta
    assert draw(sampler, 2, 3, device=meta, dtype=torch.float64).dtype == torch.float64
    assert draw(sampler, 2, 3, generator=torch.Generator()).device == torch.device("cpu")
    assert devices == [torch.device("cpu"), meta, torch.device("cpu")]
