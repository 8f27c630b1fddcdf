"""The server of the page, and what the page asks it for."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from glow.demo import between, draw, edit, fill, plane, runs, scales, score
from glow.demo.ask import Ask
from glow.demo.jobs import Event, Job, Jobs
from glow.demo.models import Models
from glow.demo.safety import MOST_BYTES, OwnPageOnly, Uploads
from glow.errors import UsageError

STATIC = Path(__file__).parent / "static"

MOST_SETTINGS = 300_000
"""Bytes of a request that is no upload."""


def list_models(ask: Ask) -> Event:
    """The names of the models, and which to show first."""
    return {"models": ask.models.list(), "first": ask.models.first}


def describe_model(ask: Ask) -> Event:
    """What the page must know of one."""
    return ask.models.describe(ask.model)


HANDLERS: dict[str, Callable[[Ask], Event]] = {"models": list_models, "model": describe_model}
for view in (draw, between, edit, scales, fill, score, plane, runs):
    HANDLERS |= view.HANDLERS


class Page:
    """The routes of the server."""

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.models, self.uploads, self.jobs = cfg, Models(cfg), Uploads(), Jobs()

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        return Starlette(
            routes=[
                Route("/", lambda request: FileResponse(STATIC / "index.html")),
                Route("/api/upload", self.upload, methods=["POST"]),
                Route("/api/{name}", self.answer, methods=["POST"]),
                Mount("/static", StaticFiles(directory=STATIC)),
            ],
            middleware=[Middleware(OwnPageOnly, host=self.cfg.host, names=list(self.cfg.names))],
            lifespan=self._lifespan,
        )

    async def upload(self, request: Request) -> Response:
        """Keep a picture: the body is the file. Answers with the word that points to it."""
        try:
            content = await _body(request, MOST_BYTES)
            return JSONResponse({"image": f"upload:{await run_in_threadpool(self.uploads.add, content)}"})
        except UsageError as error:
            return JSONResponse({"error": str(error)}, 400)

    async def answer(self, request: Request) -> Response:
        """Do what a handler does with the settings of the body; a line of JSON for each event, while they come."""
        handler = HANDLERS.get(request.path_params["name"])
        if handler is None:
            return PlainTextResponse("there is no such page", 404)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def receive(event: Event | None) -> None:
            with contextlib.suppress(RuntimeError):  # the server is being stopped
                loop.call_soon_threadsafe(events.put_nowait, event)

        def work(job: Job) -> Event:
            return handler(Ask(self.models, self.uploads, job, settings))

        try:
            settings = _settings(await _body(request, MOST_SETTINGS))
            visitor = request.headers.get("x-visitor", "")[:64]
            control = f"{request.path_params['name']} {str(settings.get('control'))[:30]}"
            job = self.jobs.start(visitor, control, work, receive)
        except UsageError as error:
            return JSONResponse({"error": str(error)}, 400)
        return Answer(job, _lines(request, events), media_type="application/x-ndjson")

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        self.jobs.close()
        self.uploads.close()


class Answer(StreamingResponse):
    """The events of a job, which is stopped when nobody reads them any more, also before the first one."""

    def __init__(self, job: Job, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.job.stop()


async def _lines(request: Request, events: "asyncio.Queue[Event | None]") -> AsyncIterator[str]:
    """A job's events, until its end or the visitor's."""
    while True:
        try:
            event = await asyncio.wait_for(events.get(), 0.5)
        except TimeoutError:
            if await request.is_disconnected():
                return
            continue
        if event is None:
            return
        yield json.dumps(event, allow_nan=False) + "\n"


async def _body(request: Request, most: int) -> bytes:
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > most:
                raise UsageError(f"this is more than {most / 1e6:g} MB")
    except ClientDisconnect as error:
        raise UsageError("the request was broken off") from error
    return bytes(content)


def _settings(body: bytes) -> dict[str, Any]:
    try:
        settings = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise UsageError("the request is no JSON") from error
    if not isinstance(settings, dict):
        raise UsageError("the request is no JSON object")
    return settings
