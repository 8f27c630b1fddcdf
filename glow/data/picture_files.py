"""Files of pictures: which there are, and what is in them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from glow.errors import UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

DECODING = 1
"""Raised with every change of ``read_picture`` that changes a pixel: older caches are then built anew."""


def pictures_below(folder: Path) -> list[Path]:
    """The files of pictures in a folder and its subfolders, sorted; raises ``UsageError`` if there are none."""
    found = []
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [d for d in subfolders if not d.startswith(".")]
        found += [Path(directory, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    if not found:
        raise UsageError(f"dataset.root: no pictures below {folder} (looked for {', '.join(SUFFIXES)})")
    return sorted(found)


def read_picture(path: Path, size: int, channels: int) -> Tensor:
    """One picture as uint8 (C, size, size). Raises what PIL raises for a file that it cannot read."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode[0] in "IF":  # 16 bits (I;16) or an unknown range (I, F); `convert` would clip at 255
            values = np.asarray(image).astype(np.float64)
            sixteen_bits = image.mode.startswith("I;16") or values.max() > 255
            values = values / 257 if sixteen_bits else values * 255 if values.max() <= 1 else values
            image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1).contiguous()


def why_broken(path: Path, size: int, channels: int) -> str:
    """What is wrong with a picture that could not be read, in a few words."""
    try:
        read_picture(path, size, channels)
    except UnidentifiedImageError:
        return (
            "it is empty" if not path.stat().st_size else "its content is no picture, whatever its name says"
        )
    except Image.DecompressionBombError:
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, make it smaller"
    except Exception as error:
        return str(error)
    return "it could not be read before and now can: touch it"
