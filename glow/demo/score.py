"""The view Score: how many bits a picture takes, where, and beside which other pictures."""

import io
import math

import torch
from torch import Tensor

from glow.codec import Coder
from glow.codec.file import InMemory, write
from glow.codec.labels import cheapest_labels
from glow.commands.session import Session
from glow.demo.ask import Ask, as_pngs
from glow.demo.images import pictures, samples
from glow.demo.jobs import Event
from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.evaluation.bits import bits_per_dim
from glow.evaluation.bits_map import bits_map
from glow.evaluation.ood import png_file
from glow.evaluation.pictures import to_bytes
from glow.flows.flow import Flow
from glow.seeds import generator

DRAWS = 16
"""Of the noise, over which the bits of a picture are averaged."""
COMPARED = 500
"""Training images that say what is typical."""
SAMPLES = 100
"""Samples that say it where the training data is not on this machine."""
AT_ONCE = 20
COPIES = 4
"""Of the picture, by which its share of a large file is measured."""


def score(ask: Ask) -> Event:
    """The bits of a picture by its pixels, without a label; then its size as files."""
    session = ask.session()
    density = session.density
    x, _ = pictures(ask, session, ask.refs("images", 1))
    noise = density.noise(DRAWS, session.generator("score"))
    copies = x.to(density.device).expand(1 if noise is None else DRAWS, -1, -1, -1)
    bits, placed = bits_map(density, copies, None, noise)
    bits = bits.mean(0).cpu()
    if not bits.isfinite().all():
        raise UsageError("the model gives this picture no finite probability")
    dimensions = x.numel()
    ask.send({
        "image": as_pngs(x, session.levels)[0], "map": [[round(v, 3) for v in row] for row in bits.tolist()],
        "placed": placed, "bits_per_dim": float(bits.sum()) / dimensions, "dimensions": dimensions, "draws": len(copies),
    })  # fmt: skip
    png = len(png_file(to_bytes(x[0], session.levels)))
    raw = dimensions * (session.levels - 1).bit_length() / 8
    return {"raw": raw, "png": png} | _coded(ask, density, x)


def _coded(ask: Ask, density: Distribution, x: Tensor) -> Event:
    """Bytes of a file of this picture alone, and those that it adds to a file of many; or why there are none."""
    try:
        coder = ask.results.get_or("coder", lambda: Coder(density))
    except UsageError as error:
        return {"refused": str(error)}
    ask.check()
    file, label = io.BytesIO(), cheapest_labels(density)(x, 0)
    ask.check()
    write(coder, InMemory(x), file, lambda *_: label)
    ask.check()
    among = coder.bits_among_others(
        x.expand(COPIES, -1, -1, -1), None if label is None else label.expand(COPIES)
    )
    return {"alone": len(file.getvalue()), "among": among / 8, "label": None if label is None else int(label)}


@torch.no_grad()
def typical(ask: Ask) -> Event:
    """Bits/dim of the first training images, without labels, while they are computed."""
    session = ask.session()
    density = session.density
    try:
        what, x = _reference(ask)
    except UsageError as error:
        return {"refused": str(error)}
    known: list[float] = ask.results.get_or("typical", list)

    def event() -> Event:
        return {
            "bits": [v for v in known if math.isfinite(v)],
            "done": len(known),
            "of": len(x),
            "what": what,
        }

    while len(known) < len(x):
        i = len(known)
        part = x[i : i + AT_ONCE].to(density.device)
        noise = density.noise(len(part), generator("cpu", "typical", i))
        known += bits_per_dim(density.log_prob(part, None, noise), density.event_shape).tolist()
        ask.send(event())
    return event()


def _reference(ask: Ask) -> tuple[str, Tensor]:
    """What the picture is compared with, in words, and its images."""
    session: Session = ask.models.open(ask.model).session
    try:
        return "training images", session.training.x[:COMPARED]
    except UsageError:  # the data is not on this machine
        if not isinstance(session.density, Flow):
            raise
    settings = {"seed": 0, "temperature": 1.0, "label": None, "guidance": 0, "n": SAMPLES}
    return "samples of the model", samples(ask, settings)[0].images


HANDLERS = {"score": score, "typical": typical}
