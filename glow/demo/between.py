"""The view Between: up to four images at the corners of a sheet, and what a point of it decodes to."""

import torch
from torch import Tensor

from glow.commands.samples import decode_warnings
from glow.commands.session import Session
from glow.demo.ask import Ask, as_pngs
from glow.demo.images import latents
from glow.demo.jobs import Event
from glow.evaluation.latents import PATHS, sheet


def _corners(ask: Ask) -> tuple[Session, Tensor]:
    """The latents (4, D) top left, top right, bottom left, bottom right."""
    session = ask.session(mode="interpolate", path=ask.text("path", PATHS))
    refs = ask.refs("images", 4)
    order = {1: (0, 0, 0, 0), 2: (0, 1, 0, 1), 3: (0, 1, 2, 2), 4: (0, 1, 2, 3)}[len(refs)]
    return session, session.flow.flatten(latents(ask, session, refs))[list(order)]


def _decode(ask: Ask, session: Session, vectors: Tensor) -> Event:
    decoded = ask.decode(session, session.flow.unflatten(vectors))
    return {"images": as_pngs(decoded.images, session.levels), **decode_warnings(decoded)}


def between_sheet(ask: Ask) -> Event:
    """``rows`` x ``columns`` points of the sheet, row by row."""
    session, corners = _corners(ask)
    across, down = (torch.linspace(0, 1, ask.integer(key, 1, 9, 7)) for key in ("columns", "rows"))
    return _decode(ask, session, sheet(corners, across, down, session.cfg.path))


def between_point(ask: Ask) -> Event:
    """The image at one point, ``across`` and ``down`` from 0 to 1."""
    session, corners = _corners(ask)
    across, down = (torch.tensor([ask.number(key, 0, 1)]) for key in ("across", "down"))
    return _decode(ask, session, sheet(corners, across, down, session.cfg.path))


HANDLERS = {"sheet": between_sheet, "point": between_point}
