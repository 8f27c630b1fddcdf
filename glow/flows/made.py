"""The masked autoencoder for distribution estimation (Germain et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from glow.errors import UsageError, check_bool, check_positive, check_shape
from glow.flows.made_density import MADEDensity
from glow.flows.vectors import check_vectors
from glow.networks import MADE


def made(
    shape: Sequence[int],
    hidden: int = 64,
    hidden_layers: int = 2,
    order_agnostic: bool = False,
    connectivity_agnostic: bool = False,
    masks: int = 8,
    grey_levels: int | None = None,
) -> MADEDensity:
    """Gaussian conditionals of vectors, Bernoulli conditionals of binary images.

    Args:
        shape: (D,), at least two dimensions, or (C, H, W).
        hidden: size of the hidden layers.
        hidden_layers: number of those.
        order_agnostic: train in several random orders of the dimensions.
        connectivity_agnostic: train with several random connectivities.
        masks: how many of them, together; one if neither is wanted.
        grey_levels: of images: 2.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    check_shape("shape", shape)
    check_bool("order_agnostic", order_agnostic)
    check_bool("connectivity_agnostic", connectivity_agnostic)
    check_positive("masks", masks, integer=True)
    binary = len(shape) == 3
    if binary and grey_levels != 2:
        raise UsageError(f"made models binary images: set dataset.grey_levels=2, got {grey_levels}")
    vector = (math.prod(shape),) if binary else shape
    d = check_vectors("made", vector, hidden=hidden, hidden_layers=hidden_layers)
    m = masks if order_agnostic or connectivity_agnostic else 1
    orders = torch.stack([torch.randperm(d) if order_agnostic else torch.arange(d) for _ in range(m)])
    network = MADE(d, 1 if binary else 2, hidden, hidden_layers, orders, connectivity_agnostic)
    return MADEDensity(network, shape)
