"""The view Runs in a browser."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.demo


def test_curves_and_pictures_of_runs(page: Page) -> None:
    page.goto("/#/runs?runs=tiny,points")
    page.wait_for_selector(".chart")
    titles = page.locator("#view figcaption").all_text_contents()
    assert sorted(title.split(":")[0] for title in titles) == ["bits per dimension", "nats"]
    assert page.locator(".columns section").count() == 2
    assert "Test: " in page.locator(".columns").inner_text()


def test_a_run_that_appears_and_goes_on(page: Page, output_dir: Path) -> None:
    page.goto("/#/runs?runs=later")
    page.wait_for_selector(".list input")
    folder = output_dir / "later"
    folder.mkdir()
    try:
        shutil.copy(output_dir / "tiny/config.yaml", folder)
        (folder / "metrics.csv").write_text("step,val/bpd\n10,3.5\n20,3.0\n")
        page.wait_for_selector("text=Step 20: validation 3.000")
        with (folder / "metrics.csv").open("a") as file:
            file.write("30,2.5\n")
        page.wait_for_selector("text=Step 30: validation 2.500")
        assert page.locator(".chart polyline").first.get_attribute("points").count(",") == 3
    finally:
        shutil.rmtree(folder)
