"""The view Score."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from demo.browsing import open_view, until
from glow.commands.main import compose
from glow.demo.ask import Ask
from glow.demo.models import Models
from glow.demo.safety import Uploads
from glow.demo.score import COMPARED, SAMPLES, score, typical
from glow.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Page

pytestmark = pytest.mark.demo

DONE = "document.querySelectorAll('section[data-done]').length === 2"


def number(text: str) -> float:
    return float(text.split()[0])


def test_a_test_image(page: Page) -> None:
    open_view(page, "score?model=mnist&image=test:3")
    until(page, DONE)
    bits = number(page.locator(".headline").inner_text())
    assert 0.3 < bits < 3
    colours = page.eval_on_selector(
        ".map", "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    )
    assert len(np.unique(np.array(colours).reshape(-1, 4), axis=0)) > 50
    # The fixture's training images are too few to hold some out.
    assert "of 100 samples of the model" in page.locator("section").first.inner_text()
    bars = page.eval_on_selector_all(
        ".histogram .bar", "bars => bars.map(b => Number(b.getAttribute('height')))"
    )
    assert max(bars) > 0
    assert f"this picture: {bits:.3f}" in page.locator(".histogram").text_content()  # type: ignore[operator]
    rows = page.locator("tbody tr")
    sizes = {
        row.locator("th").inner_text().split("\n")[0]: [float(v) for v in row.locator("td").all_inner_texts()]
        for row in rows.all()
    }
    assert sizes["As it is"] == [784, 8]
    among = sizes["Our codec, among many"]
    assert among[0] < sizes["Our codec, alone"][0] < 784
    assert among[0] < sizes["PNG"][0] < 784
    assert among[1] == pytest.approx(bits, abs=0.1)  # a label is coded, too, and pays for itself


def test_an_upload_that_is_no_digit(page: Page) -> None:
    """A picture of noise takes more bits than any digit, and is said to."""
    open_view(page, "score?model=mnist")
    until(page, DONE)
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 28), np.uint8)).save(file, "PNG")
    page.get_by_label("Image: upload a picture").set_input_files(
        {"name": "noise.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    until(page, f"{DONE} && location.hash.includes('upload:')")
    assert number(page.locator(".headline").inner_text()) > 7
    assert "hardly one of their kind" in page.locator("section").first.inner_text()
    assert "→" in page.locator(".histogram").text_content()  # type: ignore[operator]
    assert page.locator(".picker img").get_attribute("alt") == "Image: an upload"


def requested(handler: Any, models: Models, **settings: Any) -> list[dict[str, Any]]:
    """The events of a request, without a browser."""
    events: list[dict[str, Any]] = []
    job: Any = SimpleNamespace(send=events.append, check=lambda: None)
    last = handler(Ask(models, Uploads(), job, settings))
    return [*events, last]


@pytest.fixture(scope="module")
def models(tiny_run: Path) -> Models:
    return Models(compose("demo", [f"output_dir={tiny_run.parent}"]))


def test_the_map_sums_to_the_figure(models: Models) -> None:
    found = requested(score, models, model="runs/tiny", images=["test:0"])
    first, last = found
    assert np.sum(first["map"]) / 64 == pytest.approx(first["bits_per_dim"], abs=1e-3)
    assert first["dimensions"] == 64
    assert first["placed"]
    assert last["raw"] == 64 * 5 / 8  # 17 grey levels
    assert last["png"] > 57
    assert {"alone", "among"} <= last.keys()


def test_typical_ones_are_computed_once(models: Models) -> None:
    found = requested(typical, models, model="runs/tiny")
    assert [len(event["bits"]) for event in found[:3]] == [20, 40, 60]
    assert len(found[-1]["bits"]) == found[-1]["of"] == COMPARED
    assert found[-1]["what"] == "training images"
    assert requested(typical, models, model="runs/tiny") == [found[-1]]


def test_without_training_data_samples_say_what_is_typical(models: Models, monkeypatch: Any) -> None:
    monkeypatch.setattr("glow.demo.score.SAMPLES", 20)
    found = requested(typical, models, model="fashion_mnist")
    assert SAMPLES > 20 == found[-1]["of"]
    assert found[-1]["what"] == "samples of the model"


def test_a_model_that_does_not_compress(pixelcnn: Models) -> None:
    first, last = requested(score, pixelcnn, model="runs/pixels", images=["test:0"])
    assert first["draws"] == 1
    assert last["refused"] == "PixelCNN: only flows of images compress"
    with pytest.raises(UsageError, match="no test image"):
        requested(score, pixelcnn, model="runs/pixels", images=["test:99999"])
