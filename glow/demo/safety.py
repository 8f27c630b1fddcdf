"""What the page's server refuses: requests that are not its own page's, and uploads that are too large.

Any web page can have the visitor's browser send requests to 127.0.0.1. The browser says from which page they come (``Origin``)
and by which name the machine was called (``Host``), and lets no page change that.
"""

import io
import ipaddress
import secrets
import tempfile
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageOps
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glow.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "::1")

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""With these, the browser itself asks no other machine for anything."""

MOST_BYTES, MOST_PIXELS, MOST_PICTURES = 8_000_000, 25_000_000, 100
"""Of an upload; and uploads that are kept."""
LONGEST_SIDE = 1024
"""Uploads are kept at this size: no model here takes more pixels."""
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")


class OwnPageOnly:
    """Middleware that refuses requests whose Host or Origin is not the page's own.

    Args:
        app: what answers the others.
        host: where the server listens.
        names: by which browsers elsewhere may call it. A numeric address is no name that a stranger could have
            pointed here, so that all of them are taken where the server listens to others.
    """

    def __init__(self, app: ASGIApp, host: str, names: Sequence[str]) -> None:
        self.app, self.names, self.open = app, {*LOOPBACK, host, *names}, host not in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self.refusal(Headers(scope=scope))
        app = self.app if refusal is None else PlainTextResponse(refusal, 403)
        await app(scope, receive, send_with_headers)

    def refusal(self, headers: Headers) -> str | None:
        """Why a request is refused, as a sentence; None if it is the page's own."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_ours(host):
            return f"Host {host!r} is not this page's: open it by its own address, or start it with names=[{host}]"
        if origin is not None and urlsplit(origin).netloc != host:
            return f"Origin {origin!r} is not this page's: other pages may not use it"
        return None

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.open


class Uploads:
    """Pictures that visitors sent, in a temporary folder, the newest ``MOST_PICTURES`` of them."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="glow-demo-")
        self._paths: dict[str, Path] = {}
        self._lock = threading.Lock()

    def add(self, content: bytes) -> str:
        """Keep a picture; returns its name.

        Raises:
            UsageError: it is too large, or no picture.
        """
        if len(content) > MOST_BYTES:
            raise UsageError(f"this file has more than {MOST_BYTES // 1_000_000} MB")
        with self._lock:  # one at a time also for their memory
            picture = _decoded(content)
            name = secrets.token_urlsafe(9)
            path = Path(self._folder.name, f"{name}.png")
            picture.save(path)
            self._paths[name] = path
            while len(self._paths) > MOST_PICTURES:
                self._paths.pop(next(iter(self._paths))).unlink()
        return name

    def path(self, name: str) -> Path:
        """The file of a picture, a PNG; raises ``UsageError`` if there is none of that name."""
        if name not in self._paths:
            raise UsageError("this upload is no longer here: upload the picture again")
        return self._paths[name]

    def close(self) -> None:
        """Delete them."""
        self._folder.cleanup()


def _decoded(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Any = Image.open(io.BytesIO(content), formats=FORMATS)
            too_large = image.width * image.height > MOST_PIXELS
            if not too_large:
                image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
                image = ImageOps.exif_transpose(image)
                return image if image.mode in ("L", "RGB", "RGBA", "I;16") else image.convert("RGBA")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        too_large = True
    except MemoryError:
        raise
    except Exception as error:  # PIL raises many kinds
        raise UsageError(
            f"this file is no picture that can be read; take one of {', '.join(FORMATS)}"
        ) from error
    raise UsageError(f"this picture has more than {MOST_PIXELS // 1_000_000} million pixels")
