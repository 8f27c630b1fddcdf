"""A server as ``python demo.py`` starts it, and a browser on its page."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import torch
from conftest import ROOT, write_idx

import glow
from glow.commands.main import compose
from glow.demo.models import Models

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files with 200 training and 60 test images that the shipped model drew: it takes them for digits."""
    root = tmp_path_factory.mktemp("data")
    y = torch.arange(60) % 10
    x = glow.load("mnist").sample(60, y=y, temperature=0.7, generator=torch.Generator().manual_seed(0))
    for stem, n in (("train", 200), ("t10k", 60)):
        raw = root / "MNIST" / "raw"
        again = torch.arange(n) % 60
        write_idx(raw / f"{stem}-images-idx3-ubyte", x[again, 0].numpy())
        write_idx(raw / f"{stem}-labels-idx1-ubyte", y[again].numpy())
    return root


@pytest.fixture(scope="session")
def output_dir(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path, points_run: Path) -> Path:
    """A folder of runs: one of pictures and one of points."""
    folder = tmp_path_factory.mktemp("outputs")
    shutil.copytree(tiny_run, folder / "tiny")
    shutil.copytree(points_run, folder / "points")
    return folder


@pytest.fixture
def pixelcnn(run: Any, tmp_path: Path) -> Models:
    """A run of a model that goes pixel by pixel, ``runs/pixels``."""
    small = ("model.width=8", "model.layers=2", "name=pixels", "callbacks.pictures=null")
    run("debug=fast", "model=pixelcnn", *small)
    return Models(compose("demo", [f"output_dir={tmp_path}/outputs"]))


class Served(NamedTuple):
    """A server in a process of its own."""

    address: str
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="session")
def served(output_dir: Path, mnist_root: Path) -> Iterator[Served]:
    """``python demo.py`` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [
        f"port={port}",
        "open=false",
        "ckpt=mnist",
        f"output_dir={output_dir}",
        f"dataset.root={mnist_root}",
    ]
    process = subprocess.Popen(
        [sys.executable, "demo.py", *settings], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
            assert process.poll() is None, "the server ended"
            try:
                urlopen(address).close()
                break
            except URLError:
                time.sleep(0.1)
        yield Served(address, process)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def server(served: Served) -> str:
    """The address of the page."""
    return served.address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    if CHROMIUM is None:
        pytest.fail("the tests of the page need a browser: apt-get install -y chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: str) -> Iterator[Page]:
    """A page that may ask nobody but its own server, and must not complain."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=server)
    page = context.new_page()
    elsewhere: list[str] = []
    faults: list[str] = []

    def route(route: Any) -> None:
        if route.request.url.startswith((f"{server}/", "data:", "blob:")):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    context.route("**/*", route)
    page.on("pageerror", lambda error: faults.append(str(error)))

    def hear(message: Any) -> None:
        # Refused requests are written there, too; the page says them in its own words.
        if message.type == "error" and "Failed to load resource" not in message.text:
            faults.append(message.text)

    page.on("console", hear)
    page.set_default_timeout(20_000)
    yield page
    assert elsewhere == []
    assert faults == []
    context.close()
