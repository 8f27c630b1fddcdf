"""Any folder of pictures."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glow.data.base import ArrayData, Examples, Split, part_size
from glow.data.decoded_pictures import DecodedPictures
from glow.data.picture_files import PictureFiles, digest, first_met, list_folder
from glow.errors import UsageError, check_positive
from glow.seeds import generator


class ImageFolder(ArrayData):
    """Pictures of any size and mode below a folder, decoded once.

    The folder holds pictures or folders of classes, or it holds splits, ``train`` and perhaps ``test`` and
    ``val``, that do so. Without ``test``, and without ``val``, these are held out of the training pictures by
    the seed. The classes are the folders of the training pictures in alphabetical order; the pictures of a
    class may lie in folders of their own. Symbolic links are followed, but no folder of a split is read
    twice: a link that loops, or to another class's folder, adds neither pictures nor a class.

    Every picture is turned upright, resized so that its shorter side is ``image_size``, and centre-cropped.
    Grey, palette, CMYK, alpha (over white) and 16-bit pictures are converted.

    Later starts, and all processes of a machine, map the decoded pictures from a file (see ``PictureCache``).
    Another is written when a picture's path, size or time of change differs.

    Args:
        root: the folder.
        image_size, channels, skip_broken, cache: see ``DecodedPictures``.
        test_size: examples held out for testing when there is no ``test`` folder, a count or a fraction.
        common: see ``ArrayData``.
    """

    def __init__(
        self,
        *,
        root: str | Path | None,
        image_size: int,
        channels: int = 3,
        test_size: int | float = 0.1,
        skip_broken: bool = False,
        cache: str | None = "auto",
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_positive("dataset.test_size", test_size)
        if root is None:
            raise UsageError("dataset.root is missing: name the folder that holds the pictures")
        self.root = Path(root)
        self.pictures = DecodedPictures(
            self.root, image_size=image_size, channels=channels, skip_broken=skip_broken, cache=cache
        )
        self.test_size = test_size
        if not self.root.is_dir():
            raise UsageError(f"dataset.root={root} is not a folder")
        folders = sorted(folder.name for folder in list_folder(self.root)[0])
        self.split_folders = {name: self.root / name for name in folders if name in ("train", "val", "test")}
        if self.split_folders and ("train" not in folders or len(self.split_folders) < len(folders)):
            raise UsageError(
                f"dataset.root={root} holds the folders {', '.join(folders)}: either the splits train, val and "
                "test, of which train must be there, or classes of other names, not both"
            )
        self.training = self.split_folders.get("train", self.root)
        self.folders = list(self.split_folders.values()) or [self.root]
        classes = first_met(list_folder(self.training)[0], met=set())
        self.class_index = {name: i for i, name in enumerate(sorted(folder.name for folder in classes))}
        # What was found first stays, so that the test split of a long run is that of its start.
        self._found: dict[Path, PictureFiles] = {}
        self._decoded: dict[Path, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Decode the pictures into the cache; Lightning calls it on one process of a node."""
        for folder in self.folders:
            self._labels(folder)  # whose errors come before the pictures are read, which takes longer
        for folder in self.folders:
            self.pictures.kept(self._files(folder))

    def setup(self, stage: str) -> None:
        """Load what the stage needs. Devices that found different pictures would train on different splits."""
        if self.trainer is not None:
            keys = [self._files(folder).key() for folder in self.folders]
            if self.trainer.strategy.broadcast(keys) != keys:
                raise UsageError(
                    f"dataset.root={self.root}: the pictures changed while the processes started; repeat the "
                    "command when nothing writes there"
                )
        super().setup(stage)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the pictures: names and sizes, since copying a folder changes the times."""
        listing = [(f.names, [size for size, _ in f.fingerprints]) for f in map(self._files, self.folders)]
        return {"pictures": digest(listing)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to continue with others, of which the same seed would hold out those that were trained on."""
        if state_dict["pictures"] != self.state_dict()["pictures"]:
            raise UsageError(
                f"dataset.root={self.root}: the pictures are not those that this run started with; restore them, or "
                "start over with resume=false"
            )

    def load(self, split: Split) -> Examples | None:
        """uint8 (N, C, S, S), labels (N,) or None when there are no class folders."""
        if split != "train" and split in self.split_folders:
            return self._examples(self.split_folders[split])
        if split == "val":
            return None
        if "test" in self.split_folders:
            self._examples(
                self.split_folders["test"]
            )  # what is wrong with it is better known before training
            return self._examples(self.training)
        total = len(self._files(self.training).paths)
        n = part_size("dataset.test_size", self.test_size, total)
        order = torch.randperm(total, generator=generator("cpu", "test", self.seed))
        return self._examples(self.training, (order[n:] if split == "train" else order[:n]).sort().values)

    def _examples(self, folder: Path, chosen: Tensor | None = None) -> Examples:
        """Those of the pictures of a folder, or of chosen ones, that could be read."""
        if folder not in self._decoded:
            self._decoded[folder] = self.pictures.load(self._files(folder))
        x, readable = self._decoded[folder]
        rows = torch.arange(len(x)) if chosen is None else chosen
        return Examples(x, self._labels(folder), rows[readable[rows]])

    def _files(self, folder: Path) -> PictureFiles:
        if folder not in self._found:
            self._found[folder] = PictureFiles.find(folder)
        return self._found[folder]

    def _labels(self, folder: Path) -> Tensor | None:
        """The index of each picture's class, (N,); None if there are no classes or some picture is in none."""
        files = self._files(folder)
        names = [n.rpartition(os.sep)[0].partition(os.sep)[0] for n in files.names]
        if not self.class_index or "" in names:
            if self.classes is None:
                return None
            unclassified = files.paths[names.index("") if "" in names else 0]
            raise UsageError(
                f"dataset.classes={self.classes}, but {unclassified} is in no class's folder; move it into one, or "
                "set dataset.classes=null"
            )
        if unknown := set(names) - self.class_index.keys():
            raise UsageError(
                f"{folder} has the class {min(unknown)}, which the training pictures lack; rename or remove it"
            )
        return torch.tensor([self.class_index[n] for n in names])
