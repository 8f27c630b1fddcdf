"""The way of points through the layers of a flow."""

import torch

from glow.bijections import ActNorm, Composition
from glow.evaluation.layers import latent_grid, layer_by_layer
from glow.flows import Flow


def test_layer_by_layer_is_the_way_from_latents_to_data() -> None:
    layers = [ActNorm(2), ActNorm(2)]
    for layer, scale in zip(layers, (3.0, 0.5), strict=True):
        layer.initialize(
            torch.tensor([1.0, 0]) + scale * torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
        )
    flow = Flow(Composition(layers), (2,))
    z = latent_grid(flow, 2, 3, 5).view(-1, 2)
    places = layer_by_layer(flow, z)
    assert places.shape == (3, 30, 2)
    torch.testing.assert_close(places[0], z)
    # The first in the order of forward is the last on the way from the base.
    torch.testing.assert_close(places[1], layers[1].inverse(z)[0].detach())
    torch.testing.assert_close(places[2], flow.decode([z]).detach())
    assert not torch.allclose(places[1], layers[0].inverse(z)[0])
