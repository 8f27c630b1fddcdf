"""The page as a whole: for those who read it with a screen reader or move by keyboard, on small screens, and with errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from demo.browsing import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.demo

VIEWS = ["draw", "between", "edit", "scales", "fill", "score", "plane", "runs"]


def settle(page: Page, view: str) -> None:
    """Open a view and wait until it asks for nothing more."""
    page.goto(f"/#/{view}")
    until(page, f"document.querySelector('nav [aria-current]')?.dataset.view === '{view}'")
    page.wait_for_load_state("networkidle") if view != "runs" else page.wait_for_selector(".chart")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_for_screen_readers(page: Page, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    found = []
    for view in VIEWS:
        settle(page, view)
        violations = Axe().run(page).response["violations"]
        found += [(view, v["impact"], v["id"], v["nodes"][0]["html"]) for v in violations]
    assert [f for f in found if f[1] in ("serious", "critical")] == []
    print(found)


@pytest.mark.parametrize("view", VIEWS)
def test_the_keyboard_reaches_every_control(page: Page, view: str) -> None:
    settle(page, view)
    page.evaluate("document.activeElement.blur()")
    wanted = page.evaluate(
        """[...document.querySelectorAll("a, button, input, select, [tabindex='0']")]
           .filter(e => e.checkVisibility() && !e.disabled).map((e, i) => (e.dataset.order = i))"""
    )
    met = set()
    for _ in range(2 * len(wanted) + 5):
        page.keyboard.press("Tab")
        met.add(page.evaluate("document.activeElement.dataset.order"))
    assert {str(i) for i in wanted} <= met


def test_an_arrow_key_moves_a_slider(page: Page) -> None:
    settle(page, "draw")
    page.get_by_label("Temperature", exact=True).focus()
    page.keyboard.press("ArrowRight")
    until(page, "document.querySelector('.grid').dataset.settings?.includes('0.75')")


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for view in VIEWS:
        settle(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("draw?model=nist", "is not one of fashion_mnist, mnist"),
        ("draw?model=../../etc/passwd", "is not one of"),
        ("draw?model=mnist&temperature=-3", "Temperature must be a number from 0"),
        ("draw?model=mnist&n=1000", "N must be an integer from 1 to 100"),
        ("draw?model=mnist&label=12", "label must be from 0 to 9"),
        ("draw?model=runs/points", "this view is for images"),
        ("between?model=mnist&a=test:99999", "no test image 99999"),
        ("between?model=mnist&a=/etc/passwd", "is no image"),
        ("between?model=mnist&a=upload:../../x", "no longer here"),
        ("runs?runs=../..", "There"),
    ],
)
def test_wrong_addresses_are_sentences(page: Page, address: str, sentence: str) -> None:
    page.goto(f"/#/{address}")
    if address.startswith("runs"):
        page.wait_for_selector(".list input")
        assert page.locator(".chart").count() == 0
        return
    until(page, "document.querySelector('#error').textContent !== ''")
    assert sentence.lower() in page.locator("#error").inner_text().lower()


def test_the_server_goes_away(page: Page) -> None:
    settle(page, "draw")
    page.route("**/api/draw", lambda route: route.abort())
    page.get_by_role("button", name="Another seed").click()
    until(page, "/is demo.py still running/.test(document.querySelector('#error').textContent)")
