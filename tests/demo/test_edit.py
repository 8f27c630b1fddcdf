"""The views Edit and Scales in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from demo.browsing import move, open_view, pixels, sources, until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.demo

SENT = "JSON.parse(document.querySelector('figure:nth-of-type(2) img').dataset.settings)"


def test_a_slider_moves_the_image(page: Page) -> None:
    open_view(page, "edit?model=mnist&image=test:7&start=7")
    until(page, "document.querySelectorAll('figure img[src^=data]').length === 2")
    before, after = (f"figure:nth-of-type({i}) img" for i in (1, 2))
    assert np.array_equal(pixels(page, before), pixels(page, after))
    move(page, "Class 1", 1)
    until(page, f"{SENT}.length === 1 && {SENT}[0].strength === 1")
    moved = pixels(page, after)
    assert np.abs(moved.astype(int) - pixels(page, before)).mean() > 5
    assert "c1=1" in page.url
    page.get_by_role("button", name="Back to the image").click()
    until(page, f"{SENT}.length === 0")
    assert np.array_equal(pixels(page, before), pixels(page, after))


def test_two_groups(page: Page) -> None:
    open_view(page, "edit?model=mnist&image=test:3")
    candidate = page.get_by_role("group", name="Images for the groups").get_by_role("button")
    candidate.nth(2).click()
    candidate.nth(5).click()
    candidate.nth(5).click()
    assert candidate.nth(5).get_attribute("aria-label") == "Image 5, in group 2"
    move(page, "From 1 to 2", -1.5)
    until(page, f"{SENT}.length === 1")
    assert page.evaluate(f"{SENT}[0]") == {"start": ["test:2"], "end": ["test:5"], "strength": -1.5}
    assert sources(page, "figure:nth-of-type(1)") != sources(page, "figure:nth-of-type(2)")


def test_scales(page: Page) -> None:
    """At temperature zero all draws are one; what is drawn of the coarse scale changes more than what is of the fine one."""
    open_view(page, "scales?model=mnist&image=test:8")
    until(page, "document.querySelectorAll('.strip img').length === 12")
    first, second = (sources(page, f".rows section:nth-child({i})") for i in (1, 2))
    assert len(set(first)) == len(set(second)) == 6
    errors = page.eval_on_selector_all(
        ".rows .hint", "all => all.map(p => Number(/error ([\\d.]+)/.exec(p.textContent)[1]))"
    )
    assert errors[0] < errors[1]
    move(page, "Temperature", 0)
    until(page, "JSON.parse(document.querySelector('.rows').dataset.settings).temperature === 0")
    assert len(set(sources(page, ".rows section:nth-child(1)"))) == 1
