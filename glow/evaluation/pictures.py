"""Grids of images with words beside them, and figures as pictures."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST_SIDE = 64
"""Images are enlarged by the least whole factor that makes their longer side at least so many pixels."""

GAP = 4
"""Pixels between images, and around all of them."""

FONT = 14
"""Height of the letters, in pixels."""

PAGE = (222, 222, 222)
"""Light grey, on which black and white images both have edges; words are black."""

MOST_IN_TURN = 20
"""At most so many labels that come in turn get a column each."""


def grid(
    images: Tensor,
    grey_levels: int,
    columns: int,
    *,
    title: str = "",
    heads: Sequence[str] = (),
    rows: Sequence[str] = (),
    labels: Tensor | None = None,
) -> Tensor:
    """Images side by side as one picture, enlarged without blur, with words around them.

    The picture ends ``GAP`` pixels to the right of the last column and below the last row, unless the title is wider.

    Args:
        images: uint8 (N, C, H, W) with values 0 .. grey_levels-1, N at least 1.
        grey_levels: level 0 becomes black, the last one white.
        columns: images per row.
        title: a line above all.
        heads: a word above each column.
        rows: a word to the left of each row.
        labels: int64 (N,), said in the title if all are the same, else above columns or beside rows of one label.

    Returns:
        uint8 (3, height, width).
    """
    columns = min(columns, len(images))
    if labels is not None:
        title, heads, rows = _with_labels(labels, columns, title, heads, rows)
    factor = max(1, math.ceil(SMALLEST_SIDE / max(images.shape[-2:])))
    pictures = to_bytes(images, grey_levels).repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    height, width = pictures.shape[-2:]

    font = ImageFont.load_default(FONT)
    line = FONT + 2 * GAP
    left = GAP + max((math.ceil(font.getlength(text)) + 2 * GAP for text in rows), default=0)
    top = GAP + line * (bool(title) + bool(heads))
    right = left + max(columns * (width + GAP), math.ceil(font.getlength(title)) + GAP)
    page = Image.new("RGB", (right, top + math.ceil(len(images) / columns) * (height + GAP)), PAGE)
    words = ImageDraw.Draw(page)
    words.text((left, line / 2), title, "black", font, anchor="lm")
    for i, text in enumerate(heads):
        middle = left + i * (width + GAP) + width / 2
        words.text((middle, top - GAP - line / 2), text, "black", font, anchor="mm")
    for i, text in enumerate(rows):
        middle = top + i * (height + GAP) + height / 2
        words.text((left - 2 * GAP, middle), text, "black", font, anchor="rm")
    for i, picture in enumerate(pictures.permute(0, 2, 3, 1).squeeze(-1).numpy()):
        row, column = divmod(i, columns)
        page.paste(Image.fromarray(picture), (left + column * (width + GAP), top + row * (height + GAP)))
    return torch.from_numpy(np.array(page)).permute(2, 0, 1)


def to_bytes(images: Tensor, grey_levels: int) -> Tensor:
    """Grey levels 0 .. grey_levels-1 stretched to 0 .. 255, uint8 of the same shape."""
    return (images.float() * (255 / (grey_levels - 1))).round().to(torch.uint8)


def columns_for(n: int, labels: Tensor | None = None) -> int:
    """Images per row of a nearly square grid of n. Labels (n,) that come in turn get columns of their own, unless
    they are many."""
    in_turn = 1 if labels is None else len(labels.unique())
    side = math.sqrt(n)
    return in_turn * math.ceil(side / in_turn) if in_turn <= MOST_IN_TURN else math.ceil(side)


def temperature_grid(
    flow: Distribution,
    temperatures: Sequence[float],
    columns: int,
    generator: torch.Generator,
) -> Tensor:
    """One row of samples per temperature, each column from the same latents: uint8 (3, height, width). The
    columns of class-conditional flows go through the classes in turn."""
    state = generator.get_state()
    y = _in_turn(flow, columns)
    samples = []
    for temperature in temperatures:
        generator.set_state(state)
        samples.append(flow.sample(columns, temperature=temperature, y=y, generator=generator))
    return grid(
        torch.cat(samples).cpu(),
        _grey_levels(flow),
        columns,
        rows=[f"T = {temperature:g}" for temperature in temperatures],
        labels=None if y is None else y.repeat(len(samples)),
    )


def sample_grid(flow: Distribution, n: int, temperature: float, generator: torch.Generator) -> Tensor:
    """``n`` samples in a nearly square grid: uint8 (3, height, width). Class-conditional flows go through the
    classes in turn."""
    y = _in_turn(flow, n)
    images = flow.sample(n, temperature=temperature, y=y, generator=generator).cpu()
    title = f"temperature {temperature:g}"
    return grid(images, _grey_levels(flow), columns_for(n, y), title=title, labels=y)


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


def _in_turn(flow: Distribution, n: int) -> Tensor | None:
    return torch.arange(n) % flow.classes if flow.classes else None


def _with_labels(
    labels: Tensor, columns: int, title: str, heads: Sequence[str], rows: Sequence[str]
) -> tuple[str, Sequence[str], Sequence[str]]:
    """Title, heads and rows with the labels where each is true of all images that it stands for."""
    texts = ["no label" if label < 0 else f"label {label}" for label in labels.tolist()]
    by_column = [texts[i::columns] for i in range(columns)]
    by_row = [texts[i : i + columns] for i in range(0, len(texts), columns)]
    if len(set(texts)) == 1:
        title = ", ".join(filter(None, (title, texts[0])))
    elif not heads and all(len(set(column)) == 1 for column in by_column):
        heads = texts[:columns]
    elif not rows and all(len(set(row)) == 1 for row in by_row):
        rows = texts[::columns]
    return title, heads, rows
