"""The view In the plane in a browser."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from demo.browsing import move, open_view, pixels, until
from glow.errors import UsageError

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.demo

DEPTH = "Depth: 0 is the base, 1 the data"
EVENT = "JSON.parse(document.querySelector('[data-event]').dataset.event)"
IDLE = "document.querySelector('button.main').textContent.startsWith('Train')"


def bent(page: Page) -> str:
    """The picture of the grid and the points."""
    return page.eval_on_selector("figure:nth-of-type(2) canvas", "canvas => canvas.toDataURL()")


def brightest(page: Page) -> tuple[float, float]:
    """Where the density is highest, with x and y from -4 to 4."""
    red = pixels(page, ".plot img").astype(int)  # yellow is the only colour of viridis with much red
    rows, columns = np.nonzero(red > red.max() - 10)
    height, width = red.shape
    return 8 * (columns.mean() + 0.5) / width - 4, 4 - 8 * (rows.mean() + 0.5) / height


def test_the_base_is_common_and_the_data_is_not(page: Page) -> None:
    seen: dict[str, dict[float, str]] = {}
    for family in ("realnvp", "nsf"):
        open_view(page, f"plane?family={family}&toy=rings")
        seen[family] = {}
        for depth in (0, 0.5, 1):
            move(page, DEPTH, depth)
            seen[family][depth] = bent(page)
        assert len(set(seen[family].values())) == 3
        page.goto("about:blank")
    assert seen["realnvp"][0] == seen["nsf"][0]
    assert seen["realnvp"][1] != seen["nsf"][1]


def test_a_drawing_is_learned(page: Page) -> None:
    open_view(page, "plane?seconds=2&toy=own&points=00000000")  # one corner
    page.get_by_role("button", name="Clear").click()
    assert "points=" not in page.url
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + 0.75 * box["width"], box["y"] + 0.7 * box["height"]  # about (2, -1.7)
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=20)
    page.mouse.up()
    page.get_by_role("button", name="Train for 2 s").click()
    until(page, f"{EVENT}.steps > 0")
    first = page.evaluate(EVENT)
    until(page, f"{IDLE} && {EVENT}.left === 0")
    last = page.evaluate(EVENT)
    assert last["steps"] > first["steps"]
    assert last["nats"] < first["nats"] - 0.5
    assert brightest(page)[0] > 1
    assert brightest(page)[1] < -0.7
    address = page.url
    page.goto("about:blank")
    page.goto(address)  # a shared link has the drawing
    until(page, "document.querySelector('#view img[src^=data]')")
    assert page.get_by_label("Points", exact=True).input_value() == "own"
    assert page.url == address


def test_training_stops(page: Page) -> None:
    open_view(page, "plane?seconds=30")
    page.get_by_role("button", name="Train for 30 s").click()
    until(page, f"{EVENT}.left > 0")
    page.get_by_role("button", name="Stop").click()
    until(page, IDLE)
    assert "Stopped after" in page.locator(".planes p").first.inner_text()
    page.get_by_label("Family").select_option("maf")  # the server is free again
    until(page, f"{EVENT}.left === 0 && {EVENT}.steps === 0")
    assert "Untrained" in page.locator(".planes p").first.inner_text()


def test_drawing_by_keyboard(page: Page) -> None:
    open_view(page, "plane")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("application").focus()
    for key in ["ArrowUp"] * 5 + ["ArrowLeft"] * 10 + [" ", " "]:
        page.keyboard.press(key)
    assert page.locator("#message").inner_text() == "8 points."
    points = page.evaluate("new URLSearchParams(location.hash.split('?')[1]).get('points')")
    assert len(points) == 8 * 4
    values = np.array([int(points[i : i + 2], 36) for i in range(0, 32, 2)]).reshape(8, 2) / 1295 * 8 - 4
    assert np.abs(values.mean(0) - [-2, 1]).max() < 0.3


def test_nothing_to_learn(page: Page) -> None:
    open_view(page, "plane?seconds=1")
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("button", name="Train for 1 s").click()
    until(page, "document.querySelector('#error').textContent === 'Draw some points first.'")


def test_a_run(page: Page) -> None:
    open_view(page, "plane")
    page.get_by_label("Flow", exact=True).select_option("runs/points")
    until(page, "/^Dots|Dots are data/.test(document.querySelector('.planes').textContent)")
    assert "model=runs/points" in page.url
    assert page.get_by_role("button", name="Train").count() == 0
    before = bent(page)
    move(page, DEPTH, 0)
    assert bent(page) != before
    page.goto("/#/plane?model=mnist")
    until(page, "/this view is for points/.test(document.querySelector('#error').textContent)")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"points": []}, "1 to 2,000, got 0"),
        ({"points": [[0, 0]] * 2001}, "got 2,001"),
        ({"points": [[0, 9]]}, "x from -4 to 4 and y from -4 to 4"),
        ({"points": [[0, "a"]]}, "points must be pairs of numbers"),
        ({"points": "all"}, "pairs of numbers"),
        ({"seconds": 31}, "seconds must be an integer from 0 to 30"),
        ({"family": "nsf seed=1"}, "family='nsf seed=1' is not one of"),
        ({"blur": 0}, "blur must be a number from 0.02"),
    ],
)
def test_wrong_settings_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    from glow.demo.ask import Ask
    from glow.demo.plane import train_on_points

    right = {"points": [[0, 0], [1, 1]], "family": "realnvp", "seconds": 0, "blur": 0.1}
    nothing: Any = None
    with pytest.raises(UsageError) as error:
        train_on_points(Ask(nothing, nothing, nothing, right | settings))
    assert sentence in str(error.value)


def test_a_model_of_other_vectors_is_refused() -> None:
    """Its densities cannot be drawn; neither can those of a model that takes observations."""
    from glow.demo.plane import check_plane
    from glow.flows import NSF, RealNVP

    check_plane("a", RealNVP((2,)))
    for flow in (RealNVP((3,)), NSF((2,), context=2)):
        with pytest.raises(UsageError, match="a is no flow of points in the plane"):
            check_plane("a", flow)


def test_events_are_json_whatever_the_flow_does() -> None:
    """NaN is no JSON: the browser would not read it."""
    import torch

    from glow.demo.plane import BOX, describe
    from glow.flows import RealNVP

    flow = RealNVP((2,))
    with torch.no_grad():
        for weight in flow.parameters():
            weight.fill_(float("nan"))
    json.dumps(describe(flow, BOX, lambda x: BOX, 8), allow_nan=False)
