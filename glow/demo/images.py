"""The images that a visitor points to, by words that stand in addresses."""

from typing import Any

import torch
from torch import Tensor

from glow.commands.inputs import labelled, labels, read_pictures
from glow.commands.samples import draw, guidances_for
from glow.commands.session import Session
from glow.demo.ask import Ask
from glow.errors import UsageError
from glow.evaluation.latents import Decoded

MOST_SAMPLES = 100


def drawing(ask: Ask) -> dict[str, Any]:
    """The settings of ``sample.py`` that decide a grid of samples."""
    label = ask.settings.get("label")
    if label not in (None, "none"):
        label = ask.integer("label", 0, 10**6)
    return {
        "seed": ask.integer("seed", 0, 2**31, 0), "temperature": ask.number("temperature", 0, 3, 0.7),
        "label": label, "guidance": ask.number("guidance", 0, 10, 0), "n": ask.integer("n", 1, MOST_SAMPLES, 36),
    }  # fmt: skip


def samples(ask: Ask, settings: dict[str, Any]) -> tuple[Decoded, Tensor | None]:
    """What ``python sample.py`` draws with these settings, and the labels (n,)."""

    def make() -> tuple[Decoded, Tensor | None]:
        session = ask.session(**settings)
        y = labels(session, session.cfg.n)
        [guidance] = guidances_for(session, y)
        return draw(session, session.cfg.n, y, session.cfg.temperature, guidance, ask.check), y

    return ask.results.get_or(("samples", *settings.values()), make)


def pictures(ask: Ask, session: Session, refs: list[str]) -> tuple[Tensor, Tensor | None]:
    """Images, uint8 (N, C, H, W), and the labels that ``sample.py`` would give them.

    Args:
        ask: says of which model.
        session: of the call.
        refs: ``test:INDEX``; ``upload:NAME``; or ``sample:SEED:TEMPERATURE:LABEL:GUIDANCE:N:INDEX``, one of the images of the
            view Draw with these settings.

    Raises:
        UsageError: there is no such image.
    """
    x = torch.stack([_picture(ask, ref) for ref in refs])
    y = None
    if all(ref.startswith("test:") for ref in refs):
        known = ask.models.open(ask.model).session.data.y
        y = None if known is None else known[[int(ref[5:]) for ref in refs]]
    return labelled(session, x, y)


def latents(ask: Ask, session: Session, refs: list[str]) -> list[Tensor]:
    """The latents of such images, one tensor (N, ...) per scale."""
    key = ("latents", session.cfg.mode, session.cfg.label, *refs)
    return ask.results.get_or(key, lambda: session.encode(*pictures(ask, session, refs)))


def _picture(ask: Ask, ref: str) -> Tensor:
    kind, _, rest = ref.partition(":")
    session = ask.models.open(ask.model).session
    if kind == "test" and rest.isdecimal() and len(rest) < 10:
        if int(rest) >= len(session.data.x):
            raise UsageError(f"there is no test image {rest}: the last one is {len(session.data.x) - 1}")
        return session.data.x[int(rest)]
    if kind == "upload":
        return read_pictures("upload", [str(ask.uploads.path(rest))], session.density)[0]
    if kind == "sample" and rest.count(":") == 5:
        words = [_plain(word) for word in rest.split(":")]
        names = ("seed", "temperature", "label", "guidance", "n")
        own = Ask(
            ask.models, ask.uploads, ask.job, {"model": ask.model} | dict(zip(names, words, strict=False))
        )
        images = samples(own, drawing(own))[0].images
        if isinstance(words[-1], int) and 0 <= words[-1] < len(images):
            return images[words[-1]]
    raise UsageError(f"{ref[:80]!r} is no image: it must be test:INDEX, an upload or a sample")


def _plain(word: str) -> Any:
    """A number or a word; nothing where there is none."""
    try:
        return (float(word) if "." in word else int(word)) if word else None
    except ValueError:
        return word
