"""The bits of each pixel: they sum to those of the image, and are where they belong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.evaluation.bits_map import bits_map
from glow.flows import MAF, VAE, Glow, PixelCNN, RealNVP
from glow.flows.flow import Flow


def shaken(model: Distribution) -> Distribution:
    x = torch.randint(model.grey_levels or 2, (50, *model.event_shape), dtype=torch.uint8)
    if isinstance(model, Flow):
        model.initialize(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.double().eval()


def noise_of(model: Distribution, n: int) -> Tensor | None:
    return model.noise(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("model", "placed"),
    [
        (Glow((3, 8, 8), 32, levels=2, depth=2, width=8, gaussianize=True), True),
        (Glow((1, 8, 8), 16, depth=1, width=8, coupling="mixture", class_conditional=True, classes=3), True),
        (RealNVP((1, 8, 8), grey_levels=16, width=8, blocks=1), True),
        (PixelCNN((3, 4, 4), 16, width=8, layers=2), True),
        (VAE((1, 4, 4), hidden=8, latents=2, grey_levels=2), False),
    ],
    ids=["glow", "mixture", "realnvp", "pixelcnn", "vae"],
)
def test_they_sum_to_the_bits_of_the_image(model: Distribution, placed: bool) -> None:
    model = shaken(model)
    x = torch.randint(model.grey_levels or 2, (5, *model.event_shape), dtype=torch.uint8)
    y = torch.randint(model.classes, (5,)) if model.classes else None
    found = bits_map(model, x, y, noise_of(model, 5))
    with torch.no_grad():
        expected = -model.log_prob(x, y, noise_of(model, 5)) / math.log(2)
    torch.testing.assert_close(found.bits.sum((1, 2)), expected)
    assert found.bits.shape == (5, *model.event_shape[1:])
    assert found.placed == placed
    assert (found.bits.std((1, 2)) > 1e-6).all() == placed


@pytest.mark.parametrize("levels", [1, 2])
def test_what_changes_in_a_block_of_a_flow_stays_there(levels: int) -> None:
    """Couplings that are the identity leave a map of each block by itself, whose pixels the squeeze brings together."""
    side = 2**levels
    flow = Glow((1, 8, 8), 16, levels=levels, depth=2, width=4)
    x = torch.randint(16, (50, 1, 8, 8), dtype=torch.uint8)
    flow.initialize(x)
    flow.eval()
    changed = x.clone()
    changed[:, :, side : 2 * side, :side] = 15
    before, after = (bits_map(flow, t, None, noise_of(flow, 50)).bits for t in (x, changed))
    difference = (after - before).abs()
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[side : 2 * side, :side] = True
    assert difference[:, ~inside].max() < 1e-4
    assert (difference[:, inside].amax(1) > 1e-3).all()


def test_of_a_model_that_goes_pixel_by_pixel_they_are_its_conditionals() -> None:
    model = shaken(PixelCNN((1, 1, 2), 3, width=8, layers=2, components=2))
    every = torch.tensor([[i, j] for i in range(3) for j in range(3)], dtype=torch.uint8).view(9, 1, 1, 2)
    with torch.no_grad():
        joint = model.log_prob(every).exp().view(3, 3)
    first = joint.sum(1, keepdim=True)
    expected = -torch.stack((first.expand(3, 3), joint / first), dim=-1).log2().view(9, 1, 2)
    torch.testing.assert_close(bits_map(model, every).bits, expected)


def test_of_other_data_there_are_none() -> None:
    with pytest.raises(UsageError, match="need a model of images, and this one is of points"):
        bits_map(MAF((2,), hidden=8), torch.zeros(1, 2))


def test_nothing_is_recorded_afterwards() -> None:
    from glow.bijections import base

    bits_map(PixelCNN((1, 2, 2), 4, width=8, layers=2), torch.zeros(1, 1, 2, 2, dtype=torch.uint8))
    assert base._recorders == []
