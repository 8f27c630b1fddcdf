"""The view Draw: a grid of samples."""

import base64
import tempfile
from pathlib import Path

from glow.commands.samples import decode_warnings, draw_samples
from glow.demo.ask import Ask, as_pngs
from glow.demo.images import drawing, pictures, samples
from glow.demo.jobs import Event


def draw_grid(ask: Ask) -> Event:
    """Samples at a temperature, each a picture, with their labels."""
    decoded, y = samples(ask, drawing(ask))
    session = ask.session()
    images = as_pngs(decoded.images, session.levels)
    return {"images": images, "labels": None if y is None else y.tolist(), **decode_warnings(decoded)}


def draw_file(ask: Ask) -> Event:
    """The file that ``sample.py`` writes of the same settings, ``format`` png or npy."""
    session = ask.session(**drawing(ask), format=ask.text("format", ("png", "npy")))
    with tempfile.TemporaryDirectory(prefix="glow-demo-") as folder:
        session.folder = Path(folder)
        draw_samples(session)
        content = (session.folder / session.files[0]).read_bytes()
    return {"name": session.files[0], "base64": base64.b64encode(content).decode()}


def show_images(ask: Ask) -> Event:
    """The images that the visitor points to, as the model sees them."""
    session = ask.session()
    x, _ = pictures(ask, session, ask.refs("images"))
    return {"images": as_pngs(x, session.levels)}


HANDLERS = {"draw": draw_grid, "file": draw_file, "images": show_images}
