"""Grids of images, and figures as pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from glow.distributions.base import Distribution
from glow.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST_SIDE = 64
"""Images with a shorter side, in pixels, are enlarged by a whole factor."""


def grid(images: Tensor, grey_levels: int, columns: int) -> Tensor:
    """Images side by side as one picture.

    Args:
        images: uint8 (N, C, H, W) with values 0 .. grey_levels-1.
        grey_levels: level 0 becomes black, the last one white.
        columns: images per row.

    Returns:
        uint8 (3, height, width).
    """
    pictures = (images.float() * (255 / (grey_levels - 1))).round().to(torch.uint8)
    factor = max(1, SMALLEST_SIDE // images.shape[-1])
    pictures = pictures.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)
    return make_grid(pictures, nrow=columns, padding=2, pad_value=128)


def temperature_grid(
    flow: Distribution,
    temperatures: Sequence[float],
    columns: int,
    generator: torch.Generator,
) -> Tensor:
    """One row of samples per temperature, each column from the same latents: uint8 (3, height, width). The
    columns of class-conditional flows go through the classes in turn."""
    state = generator.get_state()
    y = torch.arange(columns) % flow.classes if flow.classes else None
    rows = []
    for temperature in temperatures:
        generator.set_state(state)
        rows.append(flow.sample(columns, temperature=temperature, y=y, generator=generator))
    return grid(torch.cat(rows).cpu(), _grey_levels(flow), columns)


def sample_grid(flow: Distribution, n: int, temperature: float, generator: torch.Generator) -> Tensor:
    """``n`` samples in a nearly square grid: uint8 (3, height, width). Class-conditional flows go through the
    classes in turn."""
    y = torch.arange(n) % flow.classes if flow.classes else None
    images = flow.sample(n, temperature=temperature, y=y, generator=generator).cpu()
    return grid(images, _grey_levels(flow), columns=int(np.ceil(np.sqrt(n))))


def figure_to_tensor(figure: "Figure") -> Tensor:
    """A matplotlib figure as a picture: uint8 (3, height, width)."""
    # Without pyplot there is no global state, and no window system is asked for. Slow to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture, uint8 (3, height, width), as PNG, and make its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def _grey_levels(flow: Distribution) -> int:
    if flow.grey_levels is None:
        raise UsageError("a grid of images needs a flow of integer images")
    return flow.grey_levels
