"""What samples look like: grids of images, and densities of points in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from glow.errors import UsageError
from glow.flow import Flow

SMALLEST_SIDE = 64
"""Images with a shorter side, in pixels, are enlarged by a whole factor so that a person can see them."""


def grid(images: Tensor, grey_levels: int, columns: int) -> Tensor:
    """Images side by side as one picture.

    Args:
        images: uint8 (N, C, H, W) with values 0 .. grey_levels-1.
        grey_levels: the last level becomes white.
        columns: images per row.

    Returns:
        uint8 (3, height, width).
    """
    pictures = (images.float() * (255 / (grey_levels - 1))).round().to(torch.uint8)
    factor = max(1, SMALLEST_SIDE // images.shape[-1])
    pictures = pictures.repeat_interleave(factor, dim=-1).repeat_interleave(factor, dim=-2)
    return make_grid(pictures, nrow=columns, padding=2, pad_value=128)


def temperature_grid(
    flow: Flow,
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


def sample_grid(flow: Flow, n: int, temperature: float, generator: torch.Generator) -> Tensor:
    """``n`` samples in a nearly square grid: uint8 (3, height, width). Class-conditional flows go through the
    classes in turn."""
    y = torch.arange(n) % flow.classes if flow.classes else None
    images = flow.sample(n, temperature=temperature, y=y, generator=generator).cpu()
    return grid(images, _grey_levels(flow), columns=int(np.ceil(np.sqrt(n))))


@torch.no_grad()
def density_picture(flow: Flow, data: Tensor, generator: torch.Generator, side: int = 200) -> Tensor:
    """The learned density beside the data and samples, for flows of two dimensions.

    Args:
        flow: a flow with event shape (2,).
        data: points (N, 2) that it was trained on; they set the limits of the axes.
        generator: source of the samples.
        side: the density is evaluated on ``side`` x ``side`` points.

    Returns:
        uint8 (3, height, width).
    """
    if flow.event_shape != (2,):
        raise UsageError(f"a density picture needs a flow of shape (2,), got {flow.event_shape}")
    # Not pyplot: no global state, and no window system to choose a back end for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = data.cpu()
    low, high = data.amin(0), data.amax(0)
    margin = 0.15 * (high - low)
    (x0, y0), (x1, y1) = (low - margin).tolist(), (high + margin).tolist()
    xs, ys = torch.linspace(x0, x1, side), torch.linspace(y0, y1, side)
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).view(-1, 2)
    density = flow.log_prob(points.to(flow.device, flow.dtype)).exp().view(side, side).cpu()
    samples = flow.sample(min(len(data), 2000), generator=generator).cpu()

    figure = Figure(figsize=(12, 4), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    axes[0].scatter(*data[:2000].T.numpy(), s=2)
    axes[0].set_title("data")
    axes[1].imshow(density.numpy(), origin="lower", extent=(x0, x1, y0, y1), aspect="auto", cmap="viridis")
    axes[1].set_title("density of the flow")
    axes[2].scatter(*samples.T.numpy(), s=2)
    axes[2].set_title("samples of the flow")
    axes[0].set(xlim=(x0, x1), ylim=(y0, y1))
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write a picture, uint8 (3, height, width), as PNG, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def _grey_levels(flow: Flow) -> int:
    if flow.dequantize is None:
        raise UsageError("a grid of images needs a flow of integer images")
    return flow.dequantize.levels
