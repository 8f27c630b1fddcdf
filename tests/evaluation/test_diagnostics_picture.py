"""The picture of a diagnosis."""

import io
import math

import pytest
import torch
from PIL import Image

from glow.evaluation.diagnostics import diagnose
from glow.evaluation.diagnostics_picture import diagnostics_picture

from .diagnosed import change, identity, normal, pictures, shaken, small_glow

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("levels", [1, 3])
def test_the_picture_shows_every_panel(levels: int) -> None:
    report = diagnose(shaken(small_glow(levels=levels)), pictures())
    picture = diagnostics_picture(report)
    assert picture.dtype == torch.uint8
    height, width = (544, 1120) if levels == 1 else (816, 1120)
    assert picture.shape == (3, height, width)
    rows = [picture[:, 30:].split((height - 30) // (2 if levels == 1 else 3) + 1, dim=1)][0]
    for row, columns in zip(rows, [2, 4] if levels == 1 else [3, 3, 4], strict=True):
        for panel in row.split(math.ceil(width / columns), dim=2):
            assert (panel.float().std(0) > 20).sum() > 50  # curves are coloured, axes and text are not
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    assert file.tell() < 300_000


def test_the_picture_follows_the_report() -> None:
    report = diagnose(identity(), normal(50, 6))
    first = diagnostics_picture(report)
    change(report, "latents.0.quantiles", [2 * q for q in report["latents"][0]["quantiles"]])
    changed = (diagnostics_picture(report) != first).any(0)
    half = changed.shape[1] // 2
    assert changed[:270, :half].any()
    assert not changed[:, half:].any()
