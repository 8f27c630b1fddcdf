"""What a visitor asks for: a JSON object whose values are checked here, and answered in sentences."""

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from glow.commands.session import Session
from glow.demo.jobs import Event, Job
from glow.demo.models import Models, Results
from glow.demo.safety import Uploads
from glow.errors import UsageError, check_choice
from glow.evaluation.latents import Decoded, decode
from glow.evaluation.pictures import to_bytes

BATCH = 64
"""Images that are decoded without a pause."""
MOST_REFS = 64
"""Images that one request may point to."""


class Ask:
    """One request.

    Args:
        models: those on the page.
        uploads: the pictures that visitors sent.
        job: tells the visitor what there is so far, and ends where he leaves.
        settings: the JSON object.
    """

    def __init__(self, models: Models, uploads: Uploads, job: Job, settings: dict[str, Any]) -> None:
        self.models, self.uploads, self.job, self.settings = models, uploads, job, settings

    @property
    def model(self) -> str:
        """The name of a model."""
        return self.text("model")

    @property
    def results(self) -> Results:
        """The last results of this model."""
        return self.models.open(self.model).results

    def session(self, kind: str = "images", **settings: Any) -> Session:
        """A call of ``sample`` or ``evaluate`` of this model; ``settings`` are those of ``conf/sample.yaml``.

        Raises:
            UsageError: the model is of another kind.
        """
        session = self.models.session(self.model, **settings)
        if session.density.kind != kind:
            raise UsageError(
                f"{self.model} is a model of {session.density.kind}, and this view is for {kind}"
            )
        return session

    def decode(self, session: Session, latents: Sequence[Tensor], y: Tensor | None = None) -> Decoded:
        """Images from latents, see ``glow.evaluation.latents.decode``; others have their turn between batches."""
        return decode(session.flow, latents, y, BATCH, lambda done: self.check())

    def send(self, event: Event) -> None:
        """Tell the visitor what there is so far; see ``Job.send``."""
        self.job.send(event)

    def check(self) -> None:
        """Let others have their turn; see ``Job.check``."""
        self.job.check()

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A number between two others."""
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise UsageError(f"{name} must be a number from {low:g} to {high:g}, got {_short(value)}")
        return value if math.isfinite(value) else low

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """An integer between two others."""
        value = self.settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{name} must be an integer from {low} to {high}, got {_short(value)}")
        return value

    def text(self, name: str, options: Any = None) -> str:
        """A word, one of ``options`` where there are some."""
        value = self.settings.get(name)
        if not isinstance(value, str) or len(value) > 300:
            raise UsageError(f"{name} must be a word, got {_short(value)}")
        if options is not None:
            check_choice(name, value, options)
        return value

    def refs(self, name: str, most: int = MOST_REFS) -> list[str]:
        """Words that point to images, see ``glow.demo.images``; at least one."""
        values = self.settings.get(name)
        if not isinstance(values, list) or not all(isinstance(v, str) and len(v) < 200 for v in values):
            raise UsageError(f"{name} must be a list of images, got {_short(values)}")
        if not 1 <= len(values) <= most:
            raise UsageError(f"{name} must be 1 to {most} images, got {len(values)}")
        return values


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def as_png(picture: Tensor) -> str:
    """A picture, uint8 (C, H, W) of 0 .. 255, as a data: address."""
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).squeeze(-1).numpy()).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def as_pngs(images: Tensor, grey_levels: int) -> list[str]:
    """Images, uint8 (N, C, H, W) of 0 .. grey_levels-1, each as a data: address."""
    return [as_png(image) for image in to_bytes(images, grey_levels)]
