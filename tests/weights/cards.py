"""What a card says, and what lies beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor


def card(folder: Path, name: str) -> dict[str, Any]:
    """The front matter."""
    _, front, text = (folder / f"{name}.md").read_text().split("---\n", 2)
    assert text.startswith(f"\n# {name}\n")
    return yaml.safe_load(front)


def stored_draws(folder: Path, name: str, shape: tuple[int, ...]) -> Tensor:
    """The 64 images (64, C, H, W) of the picture, 8 a row."""
    channels, height, width = shape
    with Image.open(folder / f"{name}.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).view(8, height, 8, width, channels)
    return pixels.permute(0, 2, 4, 1, 3).reshape(64, *shape)
