"""CelebA, whose pictures are files."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

from torchvision import datasets

from glow.data.base import ArrayData, Examples, Split
from glow.data.decoded_pictures import DecodedPictures
from glow.data.picture_files import PictureFiles, fingerprint
from glow.data.torchvision_data import turn_to_download
from glow.errors import UsageError, check_choice

PARTITION = "list_eval_partition.txt"
PICTURES = "img_align_celeba"
SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""By their numbers in the partition."""


class CelebA(ArrayData):
    """The 202,599 aligned faces of CelebA (Liu et al. 2015), 178x218 pixels, in the splits of its own partition.

    Of the files that torchvision downloads two are read: the pictures and ``list_eval_partition.txt``, which says the
    split of each. A picture is resized so that its shorter side is ``image_size``, and centre-cropped. Its
    attributes, 40 that may all be true, are no classes: there are no labels.

    Args:
        root: torchvision's folder, the one that holds ``celeba``.
        kind: ``CelebA``.
        image_size, channels, skip_broken, cache: see ``DecodedPictures``.
        common: see ``ArrayData``.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        image_size: int,
        kind: str = "CelebA",
        channels: int = 3,
        skip_broken: bool = False,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_choice("dataset.kind", kind, ["CelebA"])
        self.root = Path(root)
        self.folder = self.root / "celeba"
        self.pictures = DecodedPictures(
            self.folder, image_size=image_size, channels=channels, skip_broken=skip_broken, cache=cache
        )
        self._found: dict[Split, PictureFiles] = {}

    def prepare_data(self) -> None:
        """Download if needed, and decode into the cache; Lightning calls it on one process of a node."""
        if not self._is_there():
            with turn_to_download(self.root, "CelebA"):
                if not self._is_there():
                    self._download()
        for split in SPLITS:
            self._files(split)  # whose errors come before the pictures are read, which takes longer
        for split in SPLITS:
            self.pictures.kept(self._files(split))

    def load(self, split: Split) -> Examples:
        """uint8 (N, C, S, S), no labels."""
        x, readable = self.pictures.load(self._files(split))
        return Examples(x, rows=readable.nonzero().flatten())

    def _is_there(self) -> bool:
        return (self.folder / PICTURES).is_dir() and (self.folder / PARTITION).is_file()

    def _download(self) -> None:
        try:
            datasets.CelebA(self.root, download=True)
        # By gdown, which may be absent, from Google Drive, which may answer with a page instead of the file.
        except Exception as error:
            raise self._absent(f" and could not be downloaded ({' '.join(str(error).split())})") from error

    def _absent(self, why: str = "") -> UsageError:
        return UsageError(
            f"CelebA is not, or not whole, in dataset.root={self.root}{why}; unpack img_align_celeba.zip, so that "
            f"{self.folder / PICTURES} holds the pictures, and put {PARTITION} into {self.folder}, or set dataset.root "
            "to a folder that has both in celeba"
        )

    def _files(self, split: Split) -> PictureFiles:
        """The pictures of a split.

        Raises:
            UsageError: they are not there, or not all, or the partition is damaged.
        """
        if split in self._found:
            return self._found[split]
        folder, names = self.folder / PICTURES, self._names[split]
        paths = [folder / name for name in names]
        files = PictureFiles(folder, paths, names, [fingerprint(path) for path in paths], part=split)
        missing = [name for name, (size, _) in zip(names, files.fingerprints, strict=True) if size < 0]
        if missing:
            raise UsageError(
                f"dataset.root: {len(missing)} of the {len(names)} pictures of the {split} split are not in {folder}, the "
                f"first is {missing[0]}; unpack img_align_celeba.zip again"
            )
        self._found[split] = files
        return files

    @cached_property
    def _names(self) -> dict[Split, list[str]]:
        """The names of the pictures of each split, sorted."""
        if not self._is_there():
            raise self._absent()
        path = self.folder / PARTITION
        names: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for i, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            name, _, number = line.strip().partition(" ")
            if (number := number.strip()) not in ("0", "1", "2") or os.path.basename(name) != name:
                raise UsageError(
                    f"dataset.root: line {i} of {path} is {line[:40]!r} and not a file name and 0, 1 or 2; download it anew"
                )
            names[SPLITS[int(number)]].append(name)
        for split, found in names.items():
            if not found:
                raise UsageError(
                    f"dataset.root: {path} has no pictures of the {split} split; download it anew"
                )
            found.sort()
        return names
