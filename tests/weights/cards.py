"""What lies beside a card."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glow import weights


def card(folder: Path, name: str) -> dict[str, Any]:
    """The front matter."""
    assert f"---\n\n# {name}\n" in (folder / f"{name}.md").read_text()
    return weights.card(folder / f"{name}.safetensors")


def stored_draws(folder: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    """The 64 images (64, C, H, W) of the picture, 8 a row."""
    channels, height, width = shape
    with Image.open(folder / f"{name}.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).view(8, height, 8, width, channels)
    return pixels.permute(0, 2, 4, 1, 3).reshape(64, *shape)
