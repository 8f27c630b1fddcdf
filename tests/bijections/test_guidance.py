"""Guidance: from what a map is without a label, past what it is with it."""

import pytest
import torch
from torch import Tensor

from glow.bijections import Affine, Coupling, Halves, TopPrior, guided
from glow.flows import Glow
from glow.networks import ConvNet


def image_flow() -> Glow:
    flow = Glow(
        (1, 8, 8), 17, depth=2, width=8, min_scale=0.3, gaussianize=True, position=True, class_conditional=True,
        classes=3,
    )  # fmt: skip
    flow.initialize(torch.randint(17, (64, 1, 8, 8)), torch.arange(64) % 3)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            parameter += 0.02 * torch.randn_like(parameter) * ("logs" not in name)
    return flow.eval()


def test_a_coupling_extrapolates_and_keeps_its_bound() -> None:
    coupling = Coupling(Halves(), ConvNet(1, 2, 8, context_channels=3), Affine(min_scale=0.2)).double()
    with torch.no_grad():
        for parameter in coupling.parameters():
            parameter += torch.randn_like(parameter)
    z, y = torch.randn(5, 2, 4, 4).double(), torch.eye(3).double()[[0, 1, 2, 0, 1]]
    with_label, without = (coupling.network(z[:, :1], c) for c in (y, torch.zeros_like(y)))
    h = without + 3 * (with_label - without)
    expected, log_slope = Affine(min_scale=0.2).inverse(z[:, 1:], h[:, None].movedim(2, -1))
    with guided(coupling, 2.0):
        x, log_det = coupling.inverse(z, y)
    torch.testing.assert_close(x[:, 1:], expected)
    torch.testing.assert_close(log_det, log_slope.flatten(1).sum(1))
    assert log_slope.max() <= -torch.tensor(0.2).log()


def test_the_top_prior_extrapolates() -> None:
    prior = TopPrior(2, context_channels=3)
    with torch.no_grad():
        prior.bias.normal_()
        prior.given.normal_()
    y, z = torch.eye(3)[1:2], torch.zeros(1, 2, 1, 1)
    with guided(prior, 0.5):
        found = torch.cat(prior.mean_and_log_sd(z, y), 1).flatten()
    torch.testing.assert_close(found, prior.bias + 1.5 * prior.given[:, 1])


@pytest.mark.parametrize(("guidance", "y"), [(0.0, 1), (-1.0, -1)])
def test_none_is_the_model_and_minus_one_is_without_a_label(guidance: float, y: int) -> None:
    flow = image_flow()

    def draw(label: int, **options: float) -> Tensor:
        return flow.sample(4, y=label, generator=torch.Generator().manual_seed(0), **options)

    assert torch.equal(draw(1, guidance=guidance), draw(y))
    assert not torch.equal(draw(1, guidance=3.0), draw(1))
    assert torch.equal(draw(1, guidance=guidance), draw(y))  # and nothing of it stays
