"""Decoded pictures: from the cache or, without one, by and in this process."""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from glow.data.picture_cache import PictureCache
from glow.data.picture_files import PictureFiles, decode, decode_error
from glow.errors import UsageError, check_positive


class DecodedPictures:
    """Square pictures of one size, decoded once.

    Args:
        root: the folder that holds all pictures.
        image_size: side of the square pictures in pixels.
        channels: 1 for grey, 3 for RGB.
        skip_broken: leave out pictures that cannot be read, and say how many, instead of stopping.
        cache: where the decoded pictures are kept, ``image_size^2 * channels`` bytes each: a folder, or ``auto``
            (see ``PictureCache``). None keeps none, and every process decodes and holds its own.
    """

    def __init__(
        self, root: Path, *, image_size: int, channels: int, skip_broken: bool, cache: str | None
    ) -> None:
        check_positive("dataset.image_size", image_size, integer=True)
        if channels not in (1, 3):
            raise UsageError(f"dataset.channels must be 1 (grey) or 3 (RGB), got {channels}")
        if cache is not None and (not isinstance(cache, str) or not cache):
            raise UsageError(f"dataset.cache must be auto, a folder or null, got {cache!r}")
        self.image_size = image_size
        self.channels = channels
        self.skip_broken = skip_broken
        self.cache = None if cache is None else PictureCache(root, cache, image_size, channels)

    def load(self, files: PictureFiles) -> tuple[Tensor, Tensor]:
        """The pictures, uint8 (N, C, S, S), and which of them could be read, bool (N,).

        Raises:
            UsageError: some could not be read and ``skip_broken`` is false, or none could.
        """
        x, readable = self.kept(files) or decode(files, self.image_size, self.channels)
        self._report_broken(files, readable)
        return x, readable

    def kept(self, files: PictureFiles) -> tuple[Tensor, Tensor] | None:
        """The same from the cache, which is written if need be; None without a cache."""
        if self.cache is None:
            return None
        try:
            return self.cache.load(files)
        except OSError as error:
            rank_zero_warn(
                f"the decoded pictures cannot be kept ({error}), so that every process decodes and holds its own; "
                "set dataset.cache to a folder that can be written, or to null"
            )
            self.cache = None
        return None

    def _report_broken(self, files: PictureFiles, readable: Tensor) -> None:
        broken = (~readable).nonzero().flatten().tolist()
        if not broken:
            return
        first = files.paths[broken[0]]
        reason = decode_error(first, self.image_size, self.channels)
        message = f"{len(broken)} of {len(files.paths)} pictures in {files.folder} cannot be read, the first is {first}: {reason}"
        if len(broken) == len(files.paths):
            raise UsageError(f"dataset.root: {message}; not one is left")
        if not self.skip_broken:
            raise UsageError(f"{message}; repair or remove them, or set dataset.skip_broken=true")
        rank_zero_warn(f"{message}; they are left out (dataset.skip_broken=true)")
