#!/usr/bin/env python3
"""The pictures of docs/demo.md: every view of a page that is being served, 1280 pixels wide and light.

    python demo.py dataset.root=../shared/data open=false &
    python scripts/screenshots.py http://127.0.0.1:7860 --out docs

Needs the extra `test-demo` and Debian's chromium.
"""

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

VIEWS = {
    "draw": "draw?model=fashion_mnist&temperature=0.8",
    "between": "between?model=mnist&a=test:0&b=test:1&c=test:18&d=test:6&across=0.35&down=0.7",
    "edit": "edit?model=mnist&image=test:0&start=7&c8=1",
    "scales": "scales?model=fashion_mnist&image=test:6",
    "fill": "fill?model=mnist&image=test:17&mask=aw.aw",
    "score": "score?model=mnist&image=test:3",
    "plane": "plane?family=nsf&seconds=30&depth=0.55",
    "runs": "runs?runs=digits-muon,digits-adamax",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address")
    parser.add_argument("--out", type=Path, required=True, help="a folder, for demo_VIEW.png")
    parser.add_argument("--views", nargs="+", default=list(VIEWS), choices=VIEWS)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--width", type=int, default=1280)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": args.width, "height": 900}, color_scheme="dark" if args.dark else "light"
        )
        for view in args.views:
            page.goto(f"{args.address}/#/{VIEWS[view]}")
            page.wait_for_selector("#view img[src^=data]", timeout=60_000)
            page.wait_for_timeout(1000)
            if view == "plane":
                page.get_by_role("button", name="Train").click()
                page.get_by_role("button", name="Train").wait_for(timeout=60_000)  # meanwhile it says Stop
            page.wait_for_selector("#busy", state="hidden", timeout=60_000)
            page.wait_for_timeout(1000)
            page.screenshot(path=args.out / f"demo_{view}.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
