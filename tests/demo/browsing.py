"""What a visitor does on the page, and what he sees."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from playwright.sync_api import Page

SECONDS = 20.0


def until(page: Page, condition: str) -> None:
    """Wait for a condition in JavaScript. Playwright's own way needs eval, which the page forbids itself."""
    end = time.monotonic() + SECONDS
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"{condition}; {page.locator('#error').text_content()}"
        time.sleep(0.02)


def open_view(page: Page, address: str) -> None:
    """Open a view and wait until its first picture is there."""
    page.goto(f"/#/{address}")
    until(page, "document.querySelector('#view img[src^=data]')")


def sources(page: Page, selector: str) -> list[str]:
    """The pictures that are shown."""
    return page.eval_on_selector_all(f"{selector} img", "images => images.map(image => image.src)")


def pixels(page: Page, selector: str) -> np.ndarray:
    """The pixels of one picture as the browser has decoded it, (H, W)."""
    image: Any = page.eval_on_selector(
        selector,
        """async image => {
            await image.decode();
            const canvas = Object.assign(document.createElement("canvas"), {width: image.naturalWidth, height: image.naturalHeight});
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            return {shape: [canvas.height, canvas.width, 4], values: [...context.getImageData(0, 0, canvas.width, canvas.height).data]};
        }""",
    )
    return np.array(image["values"], np.uint8).reshape(image["shape"])[..., 0]


def move(page: Page, label: str, value: float) -> None:
    """Move a slider as a visitor would, and wait for what it changes."""
    slider = page.get_by_label(label, exact=True)
    slider.evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})) }",
        value,
    )
