"""What the pictures show."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glow.evaluation.pictures import GAP, PAGE, columns_for, grid, sample_grid, save_picture, temperature_grid
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
    side = 64 + GAP  # eight times eight pixels
    assert picture.shape == (3, 2 * side + GAP, 3 * side + GAP)
    assert (picture[:, 4:12, 4:12] == 255).all()
    assert (picture[:, 12:68, 12:68] == 0).all()
    assert (picture[:, side + GAP :, 2 * side + GAP :] == PAGE[0]).all()  # there is no sixth image


@pytest.mark.parametrize(("side", "factor"), [(8, 8), (28, 3), (32, 2), (48, 2), (64, 1), (100, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_images_of_a_grid_are_exact(side: int, factor: int, channels: int) -> None:
    """Whatever is written around them."""
    images = torch.randint(256, (5, channels, side, side), dtype=torch.uint8)
    words = {"title": "five", "rows": ["a row", "another"], "heads": ["left", "", "right"]}
    picture, step = grid(images, 256, 3, **words), factor * side + GAP  # type: ignore[arg-type]
    top, left = picture.shape[1] - 2 * step, picture.shape[2] - 3 * step
    for i, image in enumerate(images):
        drawn = picture[:, top + i // 3 * step :, left + i % 3 * step :][:, : step - GAP, : step - GAP]
        enlarged = torch.kron(image, torch.ones(1, factor, factor, dtype=torch.uint8))
        assert torch.equal(drawn, enlarged.expand(3, -1, -1))


def test_a_long_thin_image_is_not_made_longer() -> None:
    assert grid(torch.zeros(1, 1, 1, 100, dtype=torch.uint8), 256, 1).shape == (3, 1 + 2 * GAP, 100 + 2 * GAP)


def test_words_are_where_they_belong() -> None:
    images = torch.zeros(6, 1, 64, 64, dtype=torch.uint8)
    plain = grid(images, 256, 3)
    title = grid(images, 256, 3, title="temperature 1")
    heads = grid(images, 256, 3, heads=["", "here", ""])
    rows = grid(images, 256, 3, rows=["", "here"])
    line, margin = 22, rows.shape[2] - plain.shape[2]
    assert title.shape == heads.shape == (3, plain.shape[1] + line, plain.shape[2])
    assert torch.equal(title[:, line:], plain)
    assert torch.equal(heads[:, line:], plain)
    assert torch.equal(rows[:, :, margin:], plain)
    assert dark(title[:, :line])
    assert [dark(part) for part in heads[:, :line].split(68, dim=2)] == [False, True, False, False]
    assert [dark(part) for part in rows[:, :, :margin].split(68, dim=1)] == [False, True, False]
    wide = grid(images[:1], 256, 3, title="a title that is wider than its only image")
    assert wide.shape[2] > 200
    assert (wide[:, :, -GAP:] == PAGE[0]).all()


def dark(part: torch.Tensor) -> bool:
    """Whether something is written there."""
    return bool((part < 100).any())


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([4, 4, 4, 4, 4, 4], {"title": "T, label 4"}),
        ([0, 1, 2, 0, 1, 2], {"title": "T", "heads": ["label 0", "label 1", "label 2"]}),
        ([0, 0, 0, 1, 1, 1], {"title": "T", "rows": ["label 0", "label 1"]}),
        ([0, 1, 2, 0, 1], {"title": "T", "heads": ["label 0", "label 1", "label 2"]}),
        ([0, 0, 0, 1], {"title": "T", "rows": ["label 0", "label 1"]}),
        ([0, 1], {"title": "T", "heads": ["label 0", "label 1"]}),
        ([0, 1, 0, 1, 0, 1], {"title": "T"}),
    ],
)
def test_labels_are_said_where_they_are_true(labels: list[int], words: dict[str, Any]) -> None:
    images = torch.randint(256, (len(labels), 1, 8, 8), dtype=torch.uint8)
    found = grid(images, 256, 3, title="T", labels=torch.tensor(labels))
    assert torch.equal(found, grid(images, 256, 3, **words))


def test_labels_take_no_place_from_other_words() -> None:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    for words, labels in (({"heads": ["a", "b"]}, [0, 1, 0, 1]), ({"rows": ["a", "b"]}, [0, 0, 1, 1])):
        found = grid(images, 256, 2, **words, labels=torch.tensor(labels))  # type: ignore[arg-type]
        assert torch.equal(found, grid(images, 256, 2, **words))  # type: ignore[arg-type]


def test_columns_are_as_many_as_rows_or_follow_the_labels() -> None:
    assert [columns_for(n) for n in (1, 5, 36, 64)] == [1, 3, 6, 8]
    assert [columns_for(64, torch.arange(64) % k) for k in (1, 2, 3, 10, 20, 50)] == [8, 8, 9, 10, 20, 8]


def test_rows_of_a_temperature_grid_share_their_latents(flow: Flow) -> None:
    picture = temperature_grid(flow, (0.7, 0.7, 1.0), 4, source())
    rows = picture[:, GAP:].split(68, dim=1)
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert all(dark(row[:, :, : -4 * 68]) for row in rows)


def test_columns_of_conditional_flows_are_labelled() -> None:
    flow = Glow((1, 8, 8), 17, depth=1, width=4, classes=3, class_conditional=True)
    flow.initialize(torch.randint(17, (32, 1, 8, 8)), torch.randint(3, (32,)))
    flow.eval()
    assert temperature_grid(flow, (0.7,), 4, source()).shape[1] == GAP + 22 + 68
    assert sample_grid(flow, 7, 0.7, source()).shape == (3, GAP + 2 * 22 + 3 * 68, GAP + 3 * 68)


def test_the_same_seed_gives_the_same_samples(flow: Flow) -> None:
    first, again = (sample_grid(flow, 9, 0.7, source()) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (3, 22 + 208, 208)
    assert dark(first[:, :22])


def test_a_saved_picture_is_the_picture(tmp_path: Path) -> None:
    picture = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    save_picture(picture, tmp_path / "new" / "picture.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "new" / "picture.png")), picture.permute(1, 2, 0))
