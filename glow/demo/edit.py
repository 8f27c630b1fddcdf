"""The view Edit: an image moved along the differences of classes, or of two groups that the visitor picks."""

import torch
from torch import Tensor

from glow.commands.sample import class_members, mean_latents
from glow.commands.samples import decode_warnings
from glow.commands.session import Session
from glow.demo.ask import Ask, as_pngs
from glow.demo.images import latents, pictures
from glow.demo.jobs import Event
from glow.errors import UsageError
from glow.evaluation.latents import move

STRONGEST = 1.5
"""What a slider goes to, on both sides of 0; 1 is the whole way from one group to the other."""


def edit_image(ask: Ask) -> Event:
    """An image as it is, and moved along ``directions``: objects with a group ``start``, a group ``end`` and a ``strength``.

    A group is a class, by its label, or a list of images.
    """
    session = ask.session(mode="manipulate")
    vectors = session.flow.flatten(latents(ask, session, ask.refs("images", 1)))
    directions, strengths = [torch.zeros_like(vectors[0])], [0.0]
    for given in _directions(ask):
        one = Ask(ask.models, ask.uploads, ask.job, {"model": ask.model} | given)
        directions.append(_mean(one, session, "end") - _mean(one, session, "start"))
        strengths.append(one.number("strength", -STRONGEST, STRONGEST))
        ask.check()
    moved = move(vectors, torch.stack(directions), torch.tensor([strengths], dtype=vectors.dtype))
    decoded = ask.decode(session, session.flow.unflatten(torch.cat([vectors, moved])))
    return {"images": as_pngs(decoded.images, session.levels), **decode_warnings(decoded)}


def _directions(ask: Ask) -> list[dict[str, object]]:
    given = ask.settings.get("directions", [])
    if not isinstance(given, list) or len(given) > 100 or not all(isinstance(d, dict) for d in given):
        raise UsageError("directions must be a list of start, end and strength")
    return given


def _mean(ask: Ask, session: Session, name: str) -> Tensor:
    """The mean latents (D,) of a group."""
    group = ask.settings.get(name)
    if isinstance(group, list):
        return mean_latents(session, *pictures(ask, session, ask.refs(name)))
    if isinstance(group, bool) or not isinstance(group, (int, str)):
        raise UsageError(f"{name} must be a class or a list of images")
    session.data = ask.models.open(ask.model).session.data
    return ask.results.get_or(("mean", group), lambda: mean_latents(session, *class_members(session, group)))


HANDLERS = {"edit": edit_image}
