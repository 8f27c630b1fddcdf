"""Where in an image its bits are."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from glow.bijections.base import record_terms
from glow.bijections.repeated import unfused
from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.flows.flow import Flow


class BitsMap(NamedTuple):
    """The bits of B images by their pixels."""

    bits: Tensor  # (B, H, W), float64; they sum to the bits of the image
    placed: bool  # False of a model that does not say where its bits are: all pixels are equal


@torch.no_grad()
def bits_map(model: Distribution, x: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> BitsMap:
    r"""How many bits each pixel takes, so that :math:`-\log_2 P(x)` is their sum.

    A model that goes pixel by pixel says it exactly: :math:`-\log_2 P(x_i | x_{<i})`. A flow sums terms, most of which have a
    place: the log-slope of each value that a coupling moves, and the log-density of each latent. A term of a coarser scale is
    spread evenly over the pixels that it stands for; what has no place, such as the determinant of a 1x1 convolution, which is
    the same for all images, over all pixels. So the map of a flow is blocky, and a pixel may have less than zero bits.

    Args:
        model: of integer images.
        x: integers (B, C, H, W).
        y: labels (B,) of a class-conditional model.
        noise: as in ``log_prob``; drawn anew when absent.

    Raises:
        UsageError: the model is of other data.

    >>> from glow.flows import PixelCNN
    >>> found = bits_map(PixelCNN((1, 4, 4), 16), torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
    >>> tuple(found.bits.shape), found.placed
    ((2, 4, 4), True)
    """
    if model.grey_levels is None or model.kind != "images":
        raise UsageError(f"bits by pixel need a model of images, and this one is of {model.kind}")
    with unfused(model), record_terms() as terms:
        log_prob = model.log_prob(x, y, noise).double()
    nats = x.new_zeros(len(x), *x.shape[2:], dtype=torch.float64)
    placed = [place for term in terms for place in _places(model, term.double(), x.shape)]
    for place in placed:
        nats += place
    rest = log_prob - nats.sum((1, 2))
    nats += rest[:, None, None] / nats[0].numel()
    return BitsMap(-nats / math.log(2), bool(placed))


def _places(model: Distribution, term: Tensor, shape: torch.Size) -> list[Tensor]:
    """What a term adds to the pixels, tensors (B, H, W); none if it has no place."""
    batch, _, height, width = shape
    flat = isinstance(model, Flow) and term.dim() == 2 and term[0].numel() == shape[1:].numel()
    if flat and isinstance(model, Flow) and all(len(s) == 3 for s in model.latent_shapes):
        return [place for z in model.unflatten(term) for place in _places(model, z, shape)]
    if term.dim() < 3 or height % term.shape[-2] or width % term.shape[-1]:
        return []
    down, across = height // term.shape[-2], width // term.shape[-1]
    summed = term.reshape(batch, -1, *term.shape[-2:]).sum(1) / (down * across)
    return [summed.repeat_interleave(down, 1).repeat_interleave(across, 2)]
