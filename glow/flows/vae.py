"""Variational autoencoders with a Gaussian, inverse autoregressive or planar posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from glow.bijections import Affine, Bijection, Composition, Planar
from glow.errors import UsageError, check_choice, check_positive, check_shape
from glow.flows.autoregressive import autoregressive_layers
from glow.flows.vae_density import VAE


def vae(
    shape: Sequence[int],
    posterior: str = "gaussian",
    layers: int = 4,
    hidden: int = 128,
    latents: int = 8,
    context: int = 32,
    grey_levels: int | None = None,
) -> VAE:
    """Two-layer encoder and decoder of binary images, and a flow between the encoder's Gaussian and the latents.

    Args:
        shape: (C, H, W).
        posterior: ``gaussian`` (no flow), ``iaf`` (Kingma et al. 2016) or ``planar`` (Rezende & Mohamed 2015).
        layers: maps of that flow.
        hidden: size of the hidden layers of encoder, decoder and the flow's networks.
        latents: dimensions of z.
        context: numbers that the encoder gives the flow for each image.
        grey_levels: 2.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    check_shape("shape", shape)
    if len(shape) != 3 or grey_levels != 2:
        raise UsageError(
            f"vae models binary images: choose a dataset of images and set dataset.grey_levels=2, got shape "
            f"{tuple(shape)} and grey_levels {grey_levels}"
        )
    check_choice("posterior", posterior, ("gaussian", "iaf", "planar"))
    for name, value in {"layers": layers, "hidden": hidden, "context": context}.items():
        check_positive(name, value, integer=True)
    check_positive("latents", latents, integer=True)
    maps: list[Bijection] = []
    if posterior == "iaf":
        if latents < 2:
            raise UsageError(f"latents must be two or more for posterior=iaf, got {latents}")
        maps = autoregressive_layers(latents, layers, hidden, 1, Affine(), context)
    elif posterior == "planar":
        maps = [Planar(latents, context) for _ in range(layers)]
    d = math.prod(shape)
    encoder = _network(d, hidden, 2 * latents + context)
    return VAE(shape, encoder, Composition(maps), _network(latents, hidden, d), latents)


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )
