"""The images that ``compress`` is told: files of pictures, or a dataset."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glow.codec.file import Images, InMemory
from glow.commands.inputs import as_list
from glow.commands.loading import load, open_data
from glow.commands.session import Session
from glow.commands.sources import data_source, dataset_option, settings
from glow.errors import UsageError
from glow.evaluation.pictures import to_bytes

LOSSLESS = (".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
"""Pictures keep names that end so; those of other pictures get ``.png`` behind."""


def is_picture_name(name: str) -> bool:
    """Whether a name in a file is that of a picture below a folder, on every system, and can be written in UTF-8."""
    parts = name.split("/")
    safe = all(part not in ("", ".", "..") for part in parts) and not set(name) & set("\\:\n\r\0")
    return safe and name.lower().endswith(LOSSLESS) and name.encode(errors="replace").decode() == name


def originals(session: Session) -> Images:
    """What ``images`` means: files, or a dataset.

    Raises:
        UsageError: there are none, or they are not of the model's shape and levels.
    """
    chosen, limit = session.cfg.images, session.cfg.limit
    if chosen is None:
        return InMemory(session.data.x)
    values = [str(v) for v in as_list("images", chosen)]
    if len(values) == 1 and "/" not in values[0] and not Path(values[0]).exists():
        source = data_source(
            dataset_option("images", values[0]) | settings(session.cfg.dataset), session.saved
        )
        data = open_data(source, session.density, session.saved.seed, {})
        return InMemory(load(data, source, session.cfg.split or "test", session.density).first(limit).x)
    return _Pictures(session, values, limit)


class _Pictures:
    """Files, each exactly of the model's shape: what is cropped or resized would not come back."""

    def __init__(self, session: Session, paths: Sequence[str], limit: int | None) -> None:
        from glow.data.picture_files import pictures_below

        self.flow, self.levels = session.density, session.levels
        channels = self.flow.event_shape[0]
        if channels not in (1, 3):
            raise UsageError(
                f"images: pictures have 1 or 3 channels, and this model takes {channels}: take a dataset"
            )
        self.mode = "L" if channels == 1 else "RGB"
        self.files: list[tuple[Path, str]] = []
        for path in map(Path, paths):
            try:
                found = pictures_below(path) if path.is_dir() else [path]
            except UsageError as error:
                raise UsageError(f"images: there are no pictures below {path}") from error
            above = path if path.is_dir() else path.parent
            self.files += [(p, p.relative_to(above).as_posix()) for p in found]
        self.files = self.files[:limit]
        self._names = [n if n.lower().endswith(LOSSLESS) else f"{n}.png" for _, n in self.files]
        name, times = Counter(self._names).most_common(1)[0]
        if times > 1:
            raise UsageError(f"images: {times} pictures would have the name {name}")
        if strange := [name for name in self._names if not is_picture_name(name)]:
            raise UsageError(f"images: {strange[0]!r} is no name that every system takes")
        for path, _ in self.files:
            self._open(path).close()

    @cached_property
    def bytes_of_levels(self) -> Tensor:
        return to_bytes(torch.arange(self.levels), self.levels)

    def __len__(self) -> int:
        return len(self.files)

    def names(self, first: int, last: int) -> Sequence[str]:
        return self._names[first:last]

    def read(self, first: int, last: int) -> Tensor:
        return torch.stack([self._read(path) for path, _ in self.files[first:last]])

    def _open(self, path: Path) -> Image.Image:
        try:
            image = Image.open(path)
        except Exception as error:  # PIL raises many kinds
            raise UsageError(f"images: {path} cannot be read ({error})") from error
        _, height, width = self.flow.event_shape
        if (image.mode, image.size, getattr(image, "n_frames", 1)) != (self.mode, (width, height), 1):
            raise UsageError(
                f"images: {path} is {image.width}x{image.height} of mode {image.mode}, and this model compresses single "
                f"pictures of {width}x{height} of mode {self.mode}"
            )
        return image

    def _read(self, path: Path) -> Tensor:
        try:
            with self._open(path) as image:
                pixels = (
                    torch.from_numpy(np.array(image)).view(*self.flow.event_shape[1:], -1).permute(2, 0, 1)
                )
        except UsageError:
            raise
        except Exception as error:  # PIL raises many kinds
            raise UsageError(f"images: {path} cannot be read ({error})") from error
        level = torch.searchsorted(self.bytes_of_levels, pixels.contiguous()).clamp(max=self.levels - 1)
        if not torch.equal(self.bytes_of_levels[level], pixels):
            raise UsageError(f"images: {path} has greys that are none of this model's {self.levels} levels")
        return level.to(torch.uint8)
