"""What `python sample.py` leaves, read back."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glow.commands.main import compose
from glow.commands.sample import sample
from glow.evaluation.pictures import GAP, PAGE, grid


def draw(run: Path, out: Path, *overrides: str) -> dict[str, Any]:
    """``python sample.py ckpt=RUN out=OUT ...``; the returned figures are those of the JSON file."""
    report = sample(compose("sample", [f"ckpt={run}", f"out={out}", *overrides]))
    if "mode" in report:
        assert json.loads((out / f"{report['mode']}.json").read_text()) == report
        assert all((out / name).exists() for name in report["files"])
    return report


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)


def cells(path: Path, columns: int, side: int = 64) -> list[torch.Tensor]:
    """The images of a grid, row by row. Left of the last ten lines of pixels of a row there are no words."""
    picture, step = pixels(path), side + GAP
    left = int((picture[:, -GAP - 10 : -GAP] != PAGE[0]).any(0).any(0).nonzero()[0])
    rows = picture.shape[1] // step
    return [
        picture[:, picture.shape[1] - (rows - r) * step :, left + c * step :][:, :side, :side]
        for r in range(rows)
        for c in range(columns)
    ]


def as_drawn(images: torch.Tensor) -> list[torch.Tensor]:
    """How the grid shows images of 17 grey levels."""
    return [grid(image[None], 17, 1)[:, GAP:-GAP, GAP:-GAP] for image in images]
