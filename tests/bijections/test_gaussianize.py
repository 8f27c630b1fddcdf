"""What ``Gaussianize`` promises beyond what holds of every bijection."""

import math

import pytest
import torch

from glow.bijections import Gaussianize
from glow.errors import UsageError
from glow.flows import NICE, Glow, RealNVP

COUNTS = torch.tensor([[500, 0, 20, 480]])


def made(dtype: torch.dtype = torch.float64) -> Gaussianize:
    layer = Gaussianize(1, 4).to(dtype)
    layer.initialize(torch.empty(0), COUNTS)
    return layer


def test_values_of_the_counted_distribution_become_standard_normal() -> None:
    layer, n = made(), 200_000
    level = torch.multinomial(layer.probability[0], n, replacement=True)
    x = ((level + torch.rand(n)) / 4 - 0.5).double().view(n, 1, 1, 1)
    z, _ = layer(x)
    ranks = torch.special.ndtr(z.flatten()).sort().values
    assert (ranks - torch.linspace(0, 1, n, dtype=torch.float64)).abs().max() < 2 / math.sqrt(n)


def test_what_is_learned_keeps_the_levels_and_is_a_distribution() -> None:
    """Whatever the parameters, the densities of a level's values add up to its share, and every level comes back."""
    layer = made()
    with torch.no_grad():
        layer.log_ratio.normal_(std=0.7)
        layer.shift.normal_(std=0.3)
        layer.log_scale.uniform_(0.1, 1.0)  # below zero the density is infinite at the ends of the level
    n = 40_000
    x = ((torch.arange(n) + 0.5) / n - 0.5).double().view(n, 1, 1, 1)
    z, log_det = layer(x)
    assert (z.flatten().diff() > 0).all()
    density = (log_det - 0.5 * z.flatten().square() - 0.5 * math.log(2 * math.pi)).exp()
    share = (layer.probability.log() + layer.log_ratio).softmax(1)[0]
    torch.testing.assert_close(density.view(4, -1).mean(1) / 4, share, atol=1e-3, rtol=0)
    assert not torch.allclose(share, layer.probability[0], atol=0.05)
    back, inverse_log_det = layer.inverse(z)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=0)
    torch.testing.assert_close(inverse_log_det, -log_det, atol=1e-3, rtol=0)


def test_by_itself_it_is_the_histogram() -> None:
    """Normal density and log-determinant add up to the probability of the level, for every value in it."""
    layer = made()
    x = torch.tensor([-0.49, -0.3, -0.2, 0.1, 0.3, 0.45], dtype=torch.float64).view(-1, 1, 1, 1)
    z, log_det = layer(x)
    density = log_det - 0.5 * z.flatten().square() - 0.5 * math.log(2 * math.pi) - math.log(4)
    expected = ((COUNTS + 1) / (COUNTS + 1).sum())[0, [0, 0, 1, 2, 3, 3]]
    torch.testing.assert_close(density.exp(), expected.double())


def test_the_batch_is_counted_where_no_counts_are_given() -> None:
    layer = Gaussianize(1, 4).double()
    layer.initialize(((torch.tensor([0, 0, 0, 3]) + 0.5) / 4 - 0.5).double().view(4, 1, 1, 1))
    torch.testing.assert_close(layer.probability, torch.tensor([[4, 1, 1, 2]]).double() / 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_range_are_finite_and_outside_the_density_is_zero(dtype: torch.dtype) -> None:
    layer = made(dtype)
    x = torch.tensor([-0.5, 0.5, -0.51, 0.51], dtype=dtype, requires_grad=True)
    black_or_white = Gaussianize(1, 2).to(dtype)
    assert all(t.isfinite().all() for t in black_or_white(x[:2].view(2, 1, 1, 1)))
    z, log_det = layer(x.view(4, 1, 1, 1))
    assert z.isfinite().all()
    assert log_det.tolist()[2:] == [-math.inf] * 2
    assert log_det[:2].isfinite().all()
    log_det[:2].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_density_and_spoils_nothing_else(bad: float) -> None:
    layer = made()
    x = torch.tensor([bad, 0.1], dtype=torch.float64).view(2, 1, 1, 1)
    z, log_det = layer(x)
    assert log_det[0] == -math.inf
    torch.testing.assert_close(z[1:], layer(x[1:])[0])
    back, _ = layer.inverse(x)
    assert torch.equal(back[1:], layer.inverse(x[1:])[0])


def test_whatever_z_is_the_inverse_stays_in_the_range() -> None:
    layer = made(torch.float32)
    x, _ = layer.inverse(torch.linspace(-30, 30, 601).view(-1, 1, 1, 1))
    assert x.min() >= -0.5
    assert x.max() <= 0.5
    assert (x.flatten().diff() >= 0).all()


def test_float32_gives_every_level_back() -> None:
    layer = Gaussianize(1, 256)
    layer.initialize(torch.empty(0), torch.logspace(7, 0, 256).long()[None])
    with torch.no_grad():
        for learned in layer.parameters():
            learned.normal_(std=0.7)
    levels = torch.arange(256)
    x, _ = layer.inverse(layer(((levels + 0.5) / 256 - 0.5).view(-1, 1, 1, 1))[0])
    assert torch.equal(((x.flatten() + 0.5) * 256).floor().long(), levels)


@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 0.5])
@pytest.mark.parametrize("n", [2, 17, 256])
def test_every_number_comes_back_as_its_level_with_a_gradient(n: int, log_scale: float) -> None:
    """In float32, where narrow noise comes near the ends of its level, and whatever the shift."""
    layer = Gaussianize(1, n)
    with torch.no_grad():
        layer.log_scale.fill_(log_scale)
        layer.shift.copy_(torch.linspace(-5, 5, n))
    z = torch.linspace(-9, 9, 100_001).view(-1, 1, 1, 1).requires_grad_()
    x, log_det = layer.inverse(z)
    level = ((x.flatten() + 0.5) * n).floor()
    expected = torch.special.ndtr(z.double()).flatten() * n
    sure = (expected - expected.round()).abs() > 1e-4
    assert torch.equal(level[sure], expected[sure].floor().float())
    gradients = torch.autograd.grad(x.sum() + log_det.sum(), [z, *layer.parameters()])
    assert all(g.isfinite().all() for g in gradients)


def test_other_counts_are_refused() -> None:
    with pytest.raises(UsageError, match=r"counts must be of 1 channels and 4 levels, got \(1, 5\)"):
        Gaussianize(1, 4).initialize(torch.empty(0), torch.zeros(1, 5))


@pytest.mark.parametrize("recipe", [Glow, RealNVP, NICE])
def test_a_flow_takes_the_counts_and_keeps_them(recipe: type) -> None:
    flow = recipe((1, 4, 4), grey_levels=4, gaussianize=True)
    x = torch.randint(4, (64, 1, 4, 4))
    flow.initialize(x, counts=COUNTS)
    tables = [t for name, t in flow.state_dict().items() if name.endswith("probability")]
    torch.testing.assert_close(tables[0].double(), ((COUNTS + 1) / (COUNTS + 1).sum()).double())
    flow.eval()
    assert torch.equal(flow.decode(flow.encode(x)).long(), x)
    assert flow.log_prob(x).isfinite().all()
