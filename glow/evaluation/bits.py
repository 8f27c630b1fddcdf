"""Bits per dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

UNITS = {"bpd": "bits/dim", "nll": "nats"}
"""How the two figures are written: bits/dim of images, negative log-likelihood of vectors."""


def bits_per_dim(log_prob: Tensor, event_shape: Sequence[int]) -> Tensor:
    r"""Bits per dimension, :math:`-\log_2 P(x) / D`, of integer data (Theis et al. 2016, section 3.1).

    Args:
        log_prob: ``Flow.log_prob`` of integer data (B,), nats; it holds the level correction.
        event_shape: the shape of one element; D is the product of its sizes.

    Returns:
        (B,), bits per dimension.
    """
    return -log_prob / (math.prod(event_shape) * math.log(2))
