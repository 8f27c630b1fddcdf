"""Which pixels of an image are missing."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glow.bijections.base import Shape
from glow.errors import UsageError, nearest
from glow.seeds import draw

REGIONS: dict[str, Callable[[int, int], tuple[slice, slice]]] = {
    "left": lambda h, w: (slice(h), slice(w // 2)),
    "right": lambda h, w: (slice(h), slice(w - w // 2, w)),
    "top": lambda h, w: (slice(h // 2), slice(w)),
    "bottom": lambda h, w: (slice(h - h // 2, h), slice(w)),
    "centre": lambda h, w: (_middle(h), _middle(w)),
}
"""The named masks: (H, W) -> the rows and columns that are missing."""

ACCEPTED = f"{', '.join(REGIONS)}, random:FRACTION (above 0, below 1) or a picture's path"


def parse_mask(spec: str, shape: Shape, generator: torch.Generator) -> Tensor:
    """The missing pixels of a mask, given by its name or as a picture.

    Args:
        spec: ``left``, ``right``, ``top``, ``bottom`` (that half is missing), ``centre`` (the middle half of both
            sides), ``random:0.5`` (that fraction of the pixels), or the path of a picture of the image's height
            and width in which the missing pixels are white.
        shape: (C, H, W) of the image.
        generator: chooses the random pixels.

    Returns:
        bool (H, W), True where a pixel is missing.

    Raises:
        UsageError: an unknown name, a fraction out of range, a picture that cannot be read or has another size, or a
            mask in which no pixel is missing or none is seen.

    >>> parse_mask("left", (1, 2, 4), torch.Generator()).int()
    tensor([[1, 1, 0, 0],
            [1, 1, 0, 0]], dtype=torch.int32)
    """
    _, h, w = shape
    missing = torch.zeros(h, w, dtype=torch.bool)
    kind, _, value = spec.partition(":")
    if spec in REGIONS:
        missing[REGIONS[spec](h, w)] = True
    elif kind == "random":
        try:
            fraction = float(value)
        except ValueError:
            fraction = math.nan
        if not 0 < fraction < 1:
            raise UsageError(f"mask={spec!r} must be random:FRACTION with a fraction between 0 and 1")
        order = draw(torch.randperm, h * w, generator=generator, device=torch.device("cpu"))
        missing.view(-1)[order[: round(fraction * h * w)]] = True
    elif Path(spec).is_file():
        missing = _white(spec)
        if missing.shape != (h, w):
            raise UsageError(
                f"mask={spec!r} has {missing.shape[0]}x{missing.shape[1]} pixels (height x width), the image {h}x{w}"
            )
    else:
        raise UsageError(f"mask={spec!r} is not one of {ACCEPTED}{nearest(spec, (*REGIONS, 'random:0.5'))}")
    check_mask(missing, f"mask={spec!r}")
    return missing


def check_mask(missing: Tensor, name: str) -> None:
    """Raise ``UsageError`` unless some pixels are missing and some are seen."""
    if missing.all() or not missing.any():
        which = "every pixel, which would be a sample of the flow," if missing.all() else "no pixel"
        raise UsageError(f"{name} declares {which} missing; there must be missing and seen ones")


def _middle(size: int) -> slice:
    start = (size - size // 2) // 2
    return slice(start, start + size // 2)


def _white(path: str) -> Tensor:
    """The white pixels of a picture of any mode: bool (H, W)."""
    try:
        with Image.open(path) as picture:
            # Converting to grey, Pillow clips pictures of more than 8 bits.
            deep = picture.mode.startswith(("I", "F"))
            grey = np.asarray(picture if deep else picture.convert("L"), dtype=np.float64)
    except OSError as error:
        raise UsageError(
            f"mask={path!r} cannot be read as a picture ({error}); accepted: {ACCEPTED}"
        ) from error
    return torch.from_numpy(grey > (grey.max() if deep else 255) / 2)
