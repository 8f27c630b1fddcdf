"""The server without a browser: whom it refuses, who waits for whom, and how much memory it takes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import statistics
import threading
import time
from collections.abc import AsyncIterator
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
from anyio.from_thread import start_blocking_portal  # comes with starlette
from PIL import Image

from demo.conftest import Served
from glow.commands.main import compose
from glow.demo.server import Answer
from glow.errors import UsageError

pytestmark = pytest.mark.demo

DRAW = {"model": "mnist", "n": 36}


def request(
    server: str, path: str, body: Any = None, headers: dict[str, str] | None = None, method: str = "POST"
) -> tuple[int, str]:
    """Status and text of a request; a dict as body becomes JSON."""
    connection = HTTPConnection(urlsplit(server).netloc, timeout=60)
    content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    connection.request(method, path, content if method == "POST" else None, headers or {})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def ask(server: str, name: str, settings: Any, visitor: str = "test") -> dict[str, Any]:
    """The last event of a request."""
    _, text = request(server, f"/api/{name}", settings, {"X-Visitor": visitor})
    return json.loads(text.splitlines()[-1])


class TestWhomItRefuses:
    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:7860", "", "127.0.0.1.evil.example", "192.168.0.7"]
    )
    @pytest.mark.parametrize(
        ("method", "path"), [("GET", "/"), ("POST", "/api/draw"), ("GET", "/static/page.js")]
    )
    def test_another_host(self, server: str, host: str, method: str, path: str) -> None:
        """A name that a stranger has pointed to 127.0.0.1."""
        status, text = request(server, path, DRAW, {"Host": host}, method)
        assert status == 403
        assert "is not this page's" in text

    @pytest.mark.parametrize(
        "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost"]
    )
    @pytest.mark.parametrize("path", ["/api/draw", "/api/upload"])
    def test_another_origin(self, server: str, origin: str, path: str) -> None:
        """A page that the visitor has open, too."""
        status, text = request(server, path, DRAW, {"Origin": origin})
        assert status == 403
        assert "other pages may not use it" in text

    def test_its_own(self, server: str) -> None:
        port = urlsplit(server).port
        for name in ("127.0.0.1", "localhost"):
            own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
            assert request(server, "/api/models", {}, own)[0] == 200

    def test_names_for_others(self) -> None:
        """Where the server listens to others, numeric addresses are taken, and names that it was told."""
        from glow.demo.safety import Headers, OwnPageOnly

        guard = OwnPageOnly(None, "0.0.0.0", ["gpu7.example.org"])
        taken = ["192.168.0.7:7860", "[fe80::1]:7860", "gpu7.example.org", "localhost:7860"]
        assert [guard.refusal(Headers({"host": host})) for host in taken] == [None] * 4
        assert guard.refusal(Headers({"host": "evil.example:7860"})) is not None
        assert (
            guard.refusal(Headers({"host": "192.168.0.7:7860", "origin": "http://evil.example:7860"}))
            is not None
        )

    def test_headers(self, server: str) -> None:
        connection = HTTPConnection(urlsplit(server).netloc)
        connection.request("GET", "/")
        policy = connection.getresponse().headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self'")
        connection.close()


class TestWrongInput:
    @pytest.mark.parametrize(
        ("name", "body", "sentence"),
        [
            ("draw", b"{", "no JSON"),
            ("draw", b"[1]", "no JSON object"),
            ("draw", b"[" * 100_000, "no JSON"),
            ("draw", {}, "model must be a word"),
            ("draw", {"model": "../mnist"}, "is not one of"),
            ("draw", DRAW | {"temperature": "1"}, "temperature must be a number"),
            ("draw", DRAW | {"temperature": float("nan")}, "temperature must be a number"),
            ("draw", DRAW | {"temperature": True}, "temperature must be a number"),
            ("draw", DRAW | {"n": 10**9}, "n must be an integer"),
            ("draw", DRAW | {"label": [3]}, "label must be an integer"),
            ("draw", {"model": "runs/points"}, "a model of points, and this view is for images"),
            ("file", DRAW | {"format": "../x"}, "is not one of png, npy"),
            ("point", {"model": "mnist", "images": [], "path": "line"}, "images must be 1 to 4 images"),
            ("point", {"model": "mnist", "images": ["test:0"], "path": "line", "across": 2}, "across must be a number"),
            ("point", {"model": "mnist", "images": [f"sample:{'9' * 5000}:::::"], "path": "line"}, "must be a list of images"),
            ("images", {"model": "mnist", "images": ["sample:x:y:z:a:b:c"]}, "must be"),
            ("edit", {"model": "mnist", "images": ["test:0"], "directions": 3}, "directions must be a list"),
            ("edit", {"model": "mnist", "images": ["test:0"], "directions": [{"start": "/etc", "end": 1}]}, "is none of the labels"),
            ("edit", {"model": "mnist", "images": ["test:0"], "directions": [{"start": 99, "end": 1}]}, "is none of the labels"),
            ("picture", {"run": "tiny", "picture": "../config.yaml"}, "is not one of"),
            ("draw", b"0" * 400_000, "more than 0.3 MB"),
        ],
    )  # fmt: skip
    def test_is_a_sentence(self, server: str, name: str, body: Any, sentence: str) -> None:
        _, text = request(server, f"/api/{name}", body)
        error = json.loads(text.splitlines()[-1])["error"]
        assert sentence in error
        assert "fault of the program" not in error

    def test_uploads(self, server: str) -> None:
        def upload(image: Image.Image, kind: str) -> dict[str, Any]:
            file = io.BytesIO()
            image.save(file, kind)
            return json.loads(request(server, "/api/upload", file.getvalue())[1])

        for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
            shown = ask(
                server,
                "images",
                {"model": "mnist", "images": [upload(Image.new("L", (30, 40), 200), kind)["image"]]},
            )
            assert shown["images"][0].startswith("data:image/png")
        assert "25 million pixels" in upload(Image.new("1", (6000, 6000)), "PNG")["error"]
        assert (
            "25 million pixels" in upload(Image.new("1", (20_000, 20_000)), "PNG")["error"]
        )  # PIL's own guard
        assert "no picture" in upload(Image.new("L", (8, 8)), "TIFF")["error"]
        assert "more than 8 MB" in json.loads(request(server, "/api/upload", b"0" * 9_000_000)[1])["error"]
        cut = io.BytesIO()
        Image.effect_noise((200, 200), 90).save(cut, "PNG")
        assert "no picture" in json.loads(request(server, "/api/upload", cut.getvalue()[:9000])[1])["error"]


def test_ten_visitors_at_once(server: str) -> None:
    """None waits for all requests of another, and the page itself comes at once."""
    waits: dict[int, list[float]] = {}
    ask(server, "draw", DRAW)

    def visit(visitor: int) -> None:
        for i in range(5):
            start = time.perf_counter()
            answer = ask(server, "draw", DRAW | {"seed": 100 * visitor + i}, f"visitor {visitor}")
            assert len(answer["images"]) == 36
            waits.setdefault(visitor, []).append(time.perf_counter() - start)

    threads = [threading.Thread(target=visit, args=(k,)) for k in range(10)]
    for thread in threads:
        thread.start()
    opened = []
    while any(thread.is_alive() for thread in threads):
        start = time.perf_counter()
        assert request(server, "/", method="GET")[0] == 200
        opened.append(time.perf_counter() - start)
        time.sleep(0.05)
    means = [statistics.mean(times) for times in waits.values()]
    print(
        f"means of visitors {min(means):.2f} to {max(means):.2f} s; the page in at most {max(opened):.3f} s"
    )
    assert len(waits) == 10
    assert max(means) < 1.5 * min(means)
    assert statistics.median(opened) < 0.5


def test_a_job_whose_visitor_left_is_stopped(server: str) -> None:
    """Twelve slow requests of one visitor, who leaves, do not keep another waiting."""
    alone = timed(server, 5001)
    connections = []
    for i in range(12):
        connection = HTTPConnection(urlsplit(server).netloc)
        settings = DRAW | {"n": 100, "guidance": 1, "label": 1, "seed": 1000 + i, "control": str(i)}
        connection.request("POST", "/api/draw", json.dumps(settings), {"X-Visitor": "leaves"})
        connections.append(connection)
    time.sleep(0.2)
    for connection in connections:
        connection.close()
    time.sleep(1.5)
    print(f"alone {alone:.2f} s, after the others left {(after := timed(server, 5002)):.2f} s")
    assert after < 3 * alone + 2


def test_a_port_that_is_taken(server: str, tmp_path: Path) -> None:
    from glow.demo.serve import demo

    with pytest.raises(UsageError, match="cannot be listened on"):
        demo(compose("demo", [f"port={urlsplit(server).port}", "open=false", f"output_dir={tmp_path}"]))


def timed(server: str, seed: int) -> float:
    start = time.perf_counter()
    assert "images" in ask(server, "draw", DRAW | {"seed": seed}, "stays")
    return time.perf_counter() - start


def test_a_newer_request_takes_the_place_of_an_older(server: str) -> None:
    answers: dict[int, str] = {}

    def send(i: int) -> None:
        answers[i] = request(server, "/api/draw", DRAW | {"seed": 50 + i}, {"X-Visitor": "hasty"})[1]

    threads = [threading.Thread(target=send, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    answered = [i for i, text in answers.items() if "images" in text]
    assert 7 in answered
    assert len(answered) < 8


def test_memory_is_flat(served: Served) -> None:
    """1,000 requests of all kinds that answer quickly; the first 300 fill what is kept."""
    requests = [
        ("draw", {"model": "mnist", "n": 4}), ("draw", {"model": "fashion_mnist", "n": 4}), ("draw", {"model": "runs/tiny", "n": 4}),
        ("point", {"model": "mnist", "path": "line", "across": 0.5, "down": 0.5}), ("images", {"model": "mnist"}),
        ("models", {}), ("runs", {}), ("curves", {"runs": ["tiny"]}), ("draw", {"model": "nothing"}),
    ]  # fmt: skip
    sizes = []
    for i in range(1000):
        name, settings = requests[i % len(requests)]
        ask(served.address, name, settings | {"seed": i, "images": [f"test:{i % 60}"]}, f"visitor {i}")
        if i % 50 == 49:
            sizes.append(resident(served.process.pid))
    print("MB:", *(f"{s / 1e6:.0f}" for s in sizes))
    assert max(sizes[10:]) < 1.03 * max(sizes[:10])


def resident(pid: int) -> int:
    """Bytes of memory that a process takes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_visitor_who_leaves_before_the_first_event_stops_the_job() -> None:
    stopped: list[bool] = []
    job: Any = SimpleNamespace(stop=lambda: stopped.append(True))

    async def events() -> AsyncIterator[str]:
        await asyncio.sleep(10)
        yield "too late"

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    with start_blocking_portal() as portal:  # a loop of its own: Playwright's runs in this thread
        portal.call(Answer(job, events()), scope, receive, send)
    assert stopped
