"""The figures of reverse-KL training."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from glow.bijections import Composition, Scale
from glow.commands.main import compose
from glow.distributions.plane import DoubleWell, PlaneDensity
from glow.errors import UsageError
from glow.evaluation.reverse_kl import reverse_kl_report
from glow.flows import NSF, Flow, RealNVP
from glow.training import BothKL, ReverseKL

REALNVP: dict[str, Any] = {"_target_": "glow.flows.RealNVP", "event_shape": [2]}


class Wide(PlaneDensity):
    """A normal of standard deviation 1.5, times e."""

    box = (-12.0, 12.0, -12.0, 12.0)

    def log_prob(self, x: Tensor) -> Tensor:
        return 1 - 0.5 * (x / 1.5).square().sum(1)


def scaled(by: float) -> Flow:
    """Samples are ``by`` times a standard normal."""
    scale = Scale(2)
    with torch.no_grad():
        scale.log_scale.fill_(-math.log(by))
    return Flow(Composition([scale]), (2,))


def report(flow: Flow, target: PlaneDensity, n: int = 40_000) -> dict[str, float]:
    return reverse_kl_report(flow, target, n, torch.Generator().manual_seed(0))


def test_a_perfect_flow() -> None:
    found = report(scaled(1.5), Wide())
    log_z = 1 + math.log(2 * math.pi * 1.5**2)
    assert found["log_normalizer"] == pytest.approx(log_z, abs=1e-6)
    assert found["elbo"] == pytest.approx(log_z, abs=1e-5)
    assert found["elbo_gap"] == pytest.approx(0, abs=1e-5)
    assert found["ess"] == pytest.approx(1, abs=1e-4)
    assert "free_energy_estimate" not in found


def test_a_flow_that_is_too_wide() -> None:
    """Closed forms for q = N(0, 4) and p = N(0, 2.25) in each dimension: KL, and E[w]^2 / E[w^2]."""
    found = report(scaled(2.0), Wide())
    ratio = (2 / 1.5) ** 2
    assert found["elbo_gap"] == pytest.approx(ratio - 1 - math.log(ratio), abs=0.02)
    second = 1 / (2 / 1.5**2 - 1 / 2.0**2)  # variance of p^2 / q
    expected = (1.5**2 * 1.5**2) / (second * 2.0**2)
    assert found["ess"] == pytest.approx(expected, abs=0.02)
    assert found["log_normalizer_estimate"] == pytest.approx(found["log_normalizer"], abs=0.02)


def test_the_wells_are_reweighted() -> None:
    """An untrained flow samples both wells alike; the weights make up for it."""
    found = report(scaled(2.0), DoubleWell(), 200_000)
    assert found["free_energy_estimate"] == pytest.approx(found["free_energy_difference"], abs=0.05)
    assert found["ess"] < 0.6


def test_the_loss_is_the_negative_elbo_and_reaches_every_parameter() -> None:
    dataset = compose("train", ["dataset=banana"]).dataset
    module = ReverseKL(model={**REALNVP, "layers": 2, "hidden": 8}, dataset=dict(dataset))
    assert module.unit == "nelbo"
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    noise = module.noise(256, torch.Generator().manual_seed(0))
    loss = module.loss((torch.zeros(256, 2),), noise)
    assert loss.shape == (256,)
    assert isinstance(module.flow, Flow)
    x = module.flow.decode([noise])
    torch.testing.assert_close(
        loss, module.flow.log_prob(x) - module.density.log_prob(x), rtol=1e-3, atol=1e-3
    )
    loss.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_of_both_the_value_is_that_of_the_data_and_the_gradient_their_mixture() -> None:
    dataset = dict(compose("train", ["dataset=double_well"]).dataset)
    module = BothKL(model={**REALNVP, "layers": 2, "hidden": 8}, dataset=dataset, share=0.3)
    assert module.unit == "nll"
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    batch, noise = (torch.randn(64, 2),), module.noise(64, torch.Generator().manual_seed(0))

    def gradient(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss.mean(), list(module.parameters()))])

    nll, reverse = -module.flow(batch[0]), ReverseKL.loss(module, batch, noise)
    torch.testing.assert_close(module.loss(batch, noise), nll)
    mixture = 0.7 * gradient(nll) + 0.3 * gradient(reverse)
    torch.testing.assert_close(gradient(module.loss(batch, noise)), mixture)
    module.eval()
    torch.testing.assert_close(gradient(module.loss(batch, noise)), gradient(-module.flow(batch[0])))


@pytest.mark.parametrize("flow", [RealNVP((2,), 2, 8), NSF((2,), 2, 8)], ids=["realnvp", "nsf"])
def test_one_pass_gives_samples_and_their_density(flow: Flow) -> None:
    flow.double().initialize(torch.randn(64, 2, dtype=torch.float64))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    x, log_prob = flow.generate_with_log_prob(flow.sample_latents(20))
    torch.testing.assert_close(flow.log_prob(x), log_prob)


@pytest.mark.parametrize(
    ("model", "dataset", "message"),
    [
        ({**REALNVP, "base": "mixture"}, "banana", r"neither model=made nor model\.base=mixture"),
        ({**REALNVP, "_target_": "glow.flows.MADEDensity"}, "banana", "neither model=made"),
        (REALNVP, "checkerboard", "nowhere zero"),
        (REALNVP, "digits", "choose one of the datasets in the plane"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_so(model: dict[str, Any], dataset: str, message: str) -> None:
    cfg = dict(compose("train", [f"dataset={dataset}"]).dataset)
    with pytest.raises(UsageError, match=message):
        ReverseKL(model=model, dataset=cfg)
