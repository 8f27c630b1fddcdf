"""What the pictures show."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glow.evaluation.pictures import grid, sample_grid, save_picture, temperature_grid
from glow.flows import Flow, Glow


@pytest.fixture
def flow() -> Flow:
    flow = Glow((1, 8, 8), 17, depth=1, width=4)
    flow.initialize(torch.randint(17, (32, 1, 8, 8)))
    return flow.eval()


def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_grid_enlarges_small_images_and_stretches_grey_levels() -> None:
    images = torch.zeros(5, 1, 8, 8, dtype=torch.uint8)
    images[0, 0, 0, 0] = 16
    picture = grid(images, grey_levels=17, columns=3)
    side = 64 + 2  # eight times eight pixels and the frame
    assert picture.shape == (3, 2 * side + 2, 3 * side + 2)
    assert (picture[:, 2:10, 2:10] == 255).all()
    assert (picture[:, 10:66, 10:66] == 0).all()


def test_rows_of_a_temperature_grid_share_their_latents(flow: Flow) -> None:
    picture = temperature_grid(flow, (0.7, 0.7, 1.0), 4, source())
    rows = picture[:, 2:].split(66, dim=1)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_the_same_seed_gives_the_same_samples(flow: Flow) -> None:
    first, again = (sample_grid(flow, 9, 0.7, source()) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (3, 200, 200)


def test_a_saved_picture_is_the_picture(tmp_path: Path) -> None:
    picture = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    save_picture(picture, tmp_path / "new" / "picture.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "new" / "picture.png")), picture.permute(1, 2, 0))
