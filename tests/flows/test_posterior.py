"""Neural spline flows that are conditioned on an observation."""

import pytest
import torch
from torch import Tensor

from glow.data import Simulated
from glow.errors import UsageError
from glow.flows import NSF, build

KINDS = [{}, {"autoregressive": True}, {"base": "mixture"}]


def posterior(d: int = 2, k: int = 3, **options: object) -> NSF:
    torch.manual_seed(0)
    flow = NSF((d,), layers=3, hidden=16, context=k, **options)  # type: ignore[arg-type]
    flow.initialize(torch.randn(100, d) + 2, 5 * torch.randn(100, k) - 1)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if "network" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return flow.double().eval()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("options", KINDS)
def test_the_density_given_an_observation_integrates_to_one(options: dict[str, object]) -> None:
    flow, axis = posterior(**options), torch.linspace(-5, 9, 201, dtype=torch.float64)
    densities = []
    for x in (torch.zeros(3), torch.tensor([4.0, -3.0, 9.0])):
        log_prob = flow.log_prob(torch.cartesian_prod(axis, axis), x)
        densities.append(log_prob.detach())
        assert log_prob.exp().sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=5e-3)
    assert not torch.allclose(densities[0].exp(), densities[1].exp(), atol=1e-3)


@pytest.mark.parametrize("options", KINDS)
def test_back_and_forth_and_one_by_one(options: dict[str, object]) -> None:
    """Neither the parameters nor the observations of a batch influence one another, and one observation is for all."""
    flow = posterior(3, 2, **options)
    theta, x = normal(6, 3), normal(6, 2)
    torch.testing.assert_close(flow.decode(flow.encode(theta, x), x), theta)
    each = torch.cat([flow.log_prob(t[None], o[None]) for t, o in zip(theta, x, strict=True)])
    torch.testing.assert_close(flow.log_prob(theta, x), each)
    torch.testing.assert_close(flow.log_prob(theta, x[0]), flow.log_prob(theta, x[:1].expand(6, 2)))
    assert flow.log_prob(theta[:0], x[:0]).shape == (0,)


@pytest.mark.parametrize("options", KINDS)
def test_gradients_reach_the_observation_and_every_weight(options: dict[str, object]) -> None:
    flow = posterior(3, 2, **options).train()
    theta, x = 2 + 0.5 * normal(50, 3), normal(50, 2).requires_grad_()  # where the splines bend
    flow.log_prob(theta, x).mean().backward()
    assert x.grad is not None
    assert (x.grad != 0).all()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert any("standardize" in name for name, _ in flow.named_parameters())


def test_observations_are_standardized_once_and_that_is_saved() -> None:
    flow, x = NSF((2,), context=2), 100 * torch.randn(500, 2) + 1000
    with pytest.raises(UsageError, match="not initialized"):
        flow.log_prob(torch.randn(500, 2), x)
    flow.initialize(torch.randn(500, 2), x)
    context = flow.context(x, 500)
    assert context is not None
    torch.testing.assert_close(context.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(context.std(0), torch.ones(2), atol=1e-2, rtol=0)
    twin = build({"_target_": "glow.flows.NSF", "event_shape": [2], "context": 2})
    twin.load_state_dict(flow.state_dict())
    assert twin.initialized
    theta = torch.randn(5, 2)
    assert torch.equal(twin.log_prob(theta, x[:5]), flow.log_prob(theta, x[:5]))


def test_sampling() -> None:
    flow = posterior()
    x = normal(3)
    drawn, again = (flow.sample(7, y=x, generator=torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(drawn, again)
    each = flow.sample(7, y=x.expand(7, 3), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(each, drawn)
    other = flow.sample(7, y=x + 3, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(other, drawn)
    assert flow.sample(0, y=x).shape == (0, 2)


def test_what_does_not_fit() -> None:
    flow, theta = posterior(), normal(4, 2)
    for y in (None, normal(2), normal(5, 3), normal(4, 2)):
        with pytest.raises(UsageError, match=r"y must be what was observed, \(4, 3\) or \(3,\) for all, got"):
            flow.log_prob(theta, y)
    with pytest.raises(UsageError, match="what was observed"):
        flow.sample(4)
    with pytest.raises(UsageError, match="not class-conditional"):
        NSF((2,)).eval().log_prob(torch.zeros(4, 2), torch.zeros(4, 3))
    for context in (-1, 1.5):
        with pytest.raises(UsageError, match="context must be an integer of at least zero"):
            NSF((2,), context=context)  # type: ignore[arg-type]


def test_it_learns_the_posterior_of_the_linear_gaussian() -> None:
    """Mean and standard deviation, at observations that it has not seen."""
    data = Simulated(
        kind="linear_gaussian", name="g", shape=[10], context=10, train_size=5000, test_size=10, batch_size=1
    )
    data.setup("fit")
    theta, x = data.arrays("train")
    assert x is not None
    torch.manual_seed(0)
    flow = NSF((10,), layers=2, hidden=32, hidden_layers=1, bins=4, context=10)
    flow.initialize(theta[:500], x[:500])
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for i in range(60):
        chosen = torch.arange(i * 256, (i + 1) * 256) % len(theta)
        optimizer.zero_grad()
        (-flow(theta[chosen], x[chosen]).mean()).backward()
        optimizer.step()
    seen = torch.full((10,), 0.4)
    drawn = flow.eval().sample(4000, y=seen, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), seen / 2, atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((10,), 0.05**0.5), atol=0.06, rtol=0)
