"""The view Fill in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from demo.browsing import move, open_view, pixels, sources, until
from glow.demo.ask import Ask
from glow.demo.fill import fill
from glow.demo.models import Models
from glow.demo.safety import Uploads
from glow.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.demo

THERE = "document.querySelectorAll('.way.there').length === 4"
DONE = "document.querySelector('.filling [role=status]').textContent === 'Done.'"


def mask(page: Page) -> np.ndarray:
    """The missing pixels that the address says, in a row."""
    found = re.search(r"mask=([0-9a-z.]+)", page.evaluate("location.hash"))
    assert found is not None
    runs = [int(word, 36) for word in found[1].split(".")]
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)


def test_painted_pixels_are_filled_in_and_others_stay(page: Page) -> None:
    open_view(page, "fill?model=runs/tiny&image=test:3&steps=20")
    page.get_by_role("button", name="Clear").click()
    assert mask(page).sum() == 0
    move(page, "Size of the brush", 2)
    box = page.locator("canvas").bounding_box()
    assert box is not None
    cell = box["width"] / 8
    page.mouse.move(box["x"] + 1.5 * cell, box["y"] + 4.5 * cell)
    page.mouse.down()
    page.mouse.move(
        box["x"] + 6.5 * cell, box["y"] + 4.5 * cell
    )  # in one go: what lies between is painted, too
    page.mouse.up()
    missing = np.zeros((8, 8), bool)
    missing[4:6, 1:8] = True
    assert (mask(page).reshape(8, 8) == missing).all()
    assert page.locator(".way.there").count() == 0
    page.get_by_role("button", name="Fill in").click()
    until(page, DONE)
    image = pixels(page, ".picker img")
    ways = [pixels(page, f".way:nth-child({i}) img") for i in (1, 2, 3, 4)]
    for way in ways:
        assert (way[~missing] == image[~missing]).all()
        assert (way[missing] != image[missing]).any()
    assert len(set(sources(page, ".ways"))) == 4


def test_by_keyboard(page: Page) -> None:
    open_view(page, "fill?model=runs/tiny&brush=1")
    until(page, "document.querySelector('canvas').checkVisibility()")
    page.get_by_role("button", name="Clear").click()
    page.locator("canvas").focus()
    for key in ("ArrowUp", "ArrowLeft", "Space"):
        page.keyboard.press(key)
    assert np.flatnonzero(mask(page)).tolist() == [3 * 8 + 3]
    assert page.locator("#message").inner_text() == "Row 4, column 4: missing"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    assert np.flatnonzero(mask(page)).tolist() == [3 * 8 + 3, 3 * 8 + 4]
    page.keyboard.press("Space")
    assert np.flatnonzero(mask(page)).tolist() == [3 * 8 + 3]
    page.get_by_role("button", name="Lower half").click()
    assert np.flatnonzero(mask(page)).tolist() == list(range(32, 64))


def test_completions_arrive_and_can_be_stopped(page: Page) -> None:
    """Of a link that says what is missing. Another view answers at once afterwards, and before, too."""
    page.goto("/#/fill?model=mnist&image=test:8&mask=aw.aw&steps=1000")
    until(page, THERE)
    first = sources(page, ".ways")
    until(page, f"JSON.stringify([...document.querySelectorAll('.way img')].map(i => i.src)) !== {first!r}")
    assert re.match(r"Step \d+ of 1000: large shapes first", page.locator(".filling p").last.inner_text())
    page.get_by_role("button", name="Stop").click()
    stopped = sources(page, ".ways")
    assert "Stopped" in page.locator(".filling p").last.inner_text()
    time.sleep(1)
    assert sources(page, ".ways") == stopped
    assert page.get_by_role("button", name="Fill in").is_enabled()
    page.locator("nav").get_by_text("Scales").click()
    until(page, "document.querySelectorAll('.strip img[src^=data]').length > 0")


def test_no_pixel_missing_is_a_sentence(page: Page) -> None:
    open_view(page, "fill?model=runs/tiny")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Fill in").click()
    until(page, "/no pixel missing/.test(document.querySelector('#error').textContent)")
    assert page.get_by_role("button", name="Fill in").is_enabled()


class TestPixelByPixel:
    """Of a model that draws pixels in order, without a browser."""

    @pytest.fixture
    def ask(self, pixelcnn: Models) -> Callable[..., list[dict[str, Any]]]:
        """``ask(mask)``: the events of a request."""

        def request(mask: object) -> list[dict[str, Any]]:
            events: list[dict[str, Any]] = []
            job: Any = SimpleNamespace(send=events.append, check=lambda: None)
            settings = {"model": "runs/pixels", "images": ["test:0"], "mask": mask}
            last = fill(Ask(pixelcnn, Uploads(), job, settings))
            return [*events, last]

        return request

    def test_all_after_the_first_is_missing(self, ask: Callable[..., list[dict[str, Any]]]) -> None:
        first, *_, last = ask([20, 3, 41])
        assert first == {"mask": [20, 44], "exact": True}
        assert last["share"] == 1
        assert len(set(last["images"])) == 4

    def test_wrong_masks(self, ask: Callable[..., list[dict[str, Any]]]) -> None:
        for wrong in (None, [32, 31], [-1, 65], [True, 63], "32", [32, "32"], [10**12], []):
            with pytest.raises(UsageError, match="mask must be lengths"):
                ask(wrong)
        for wrong in ([64], [0, 64], [0, 1, 63]):
            with pytest.raises(UsageError, match="must be missing and seen ones"):
                ask(wrong)
