"""Any folder of WAV files."""

import math
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.data.base import ArrayData, Examples, Split, part_size
from glow.data.picture_files import digest, files_below, fingerprint
from glow.errors import UsageError, check_positive
from glow.mu_law import compand
from glow.seeds import generator


class AudioFolder(ArrayData):
    """Segments of the WAV files below a folder, mixed down to one channel, resampled and companded: uint8 (N, 1, length).

    The folder holds files, in folders of any names, or it holds splits, ``train`` and perhaps ``test`` and ``val``, that do so.
    Without ``test``, and without ``val``, whole files are held out of the training files by the seed, so that no sound is in two
    splits. A file is cut into segments from its beginning, and what remains at its end is left out.

    Args:
        root: the folder.
        sample_rate: samples a second; files of other rates are resampled.
        length: samples of a segment.
        test_size: files held out for testing when there is no ``test`` folder, a count or a fraction.
        common: see ``ArrayData``; ``val_size`` is of the files, too.
    """

    def __init__(
        self,
        *,
        root: str | Path | None,
        sample_rate: int,
        length: int,
        test_size: int | float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_positive("dataset.sample_rate", sample_rate, integer=True)
        check_positive("dataset.length", length, integer=True)
        check_positive("dataset.test_size", test_size)
        if root is None or not Path(root).is_dir():
            raise UsageError(f"dataset.root={root} is not a folder: name the one that holds the WAV files")
        self.root, self.sample_rate, self.length, self.test_size = Path(root), sample_rate, length, test_size

    @cached_property
    def files(self) -> dict[Split, list[Path]]:
        """The files of every split, as they are found first: the test split of a long run is that of its start."""
        splits: tuple[Split, ...] = ("train", "val", "test")
        found = {s: self._below(self.root / s) for s in splits if (self.root / s).is_dir()}
        if "train" not in found:
            if found:
                raise UsageError(f"dataset.root={self.root} holds the split {next(iter(found))} and no train")
            found["train"] = self._below(self.root)
        sizes: dict[Split, int | float] = {"test": self.test_size, "val": self.val_size}
        for split, size in sizes.items():
            if split not in found:
                total = len(found["train"])
                order = torch.randperm(total, generator=generator("cpu", split, self.seed))
                held_out = set(order[: part_size(f"dataset.{split}_size", size, total)].tolist())
                found[split] = [f for i, f in enumerate(found["train"]) if i in held_out]
                found["train"] = [f for i, f in enumerate(found["train"]) if i not in held_out]
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the files: names and sizes, since copying a folder changes the times."""
        files = [f for split in ("train", "val", "test") for f in self.files[split]]
        return {"files": digest([(str(f.relative_to(self.root)), fingerprint(f)[0]) for f in files])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to continue with others, of which the same seed would hold out those that were trained on."""
        if state_dict["files"] != self.state_dict()["files"]:
            raise UsageError(
                f"dataset.root={self.root}: the WAV files are not those that this run started with; restore them, or "
                "start over with resume=false"
            )

    def load(self, split: Split) -> Examples:
        """uint8 (N, 1, length), 256 levels, no labels."""
        files = self.files[split]
        sounds = [compand(self._read(file)) for file in files]
        x = torch.cat([s[: len(s) // self.length * self.length].view(-1, 1, self.length) for s in sounds])
        if not len(x):
            raise UsageError(
                f"dataset.length={self.length}: none of the {len(files)} files of the {split} split, the first is {files[0]}, "
                f"has so many samples at dataset.sample_rate={self.sample_rate}"
            )
        return Examples(x)

    def _below(self, folder: Path) -> list[Path]:
        if not (found := files_below(folder, (".wav",))):
            raise UsageError(f"dataset.root: no WAV files below {folder}")
        return found

    def _read(self, path: Path) -> Tensor:
        """The sound of a file in [-1, 1], mixed down and resampled, float32 (samples,)."""
        from scipy.io import wavfile  # slow to import
        from scipy.signal import resample_poly

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that are not sound
                rate, data = wavfile.read(path)
        except Exception as error:  # scipy raises many kinds
            raise UsageError(
                f"dataset.root: {path} cannot be read as a WAV file ({error}); repair or remove it"
            ) from error
        if not len(data):  # a recording that was not finished
            return torch.empty(0)
        if data.dtype.kind in "iu":  # of 8 bits without a sign, of others with one
            half = 2.0 ** (8 * data.dtype.itemsize - 1)
            data = data / half - (data.dtype.kind == "u")
        x = data.reshape(len(data), -1).mean(axis=1)
        if not (rate > 0 and np.isfinite(x).all()):
            raise UsageError(
                f"dataset.root: {path} has values, or a rate, that are no numbers; repair or remove it"
            )
        common = math.gcd(rate, self.sample_rate)
        x = resample_poly(x, self.sample_rate // common, rate // common)
        return torch.from_numpy(x).float()
