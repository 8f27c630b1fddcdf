"""Any folder of pictures."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from glow.data.base import ArrayData, Examples, Split, part_size
from glow.data.picture_cache import PictureCache
from glow.data.picture_files import PictureFiles, decode, decode_error, digest, first_met, list_folder
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
        image_size: side of the square pictures in pixels.
        channels: 1 for grey, 3 for RGB.
        test_size: examples held out for testing when there is no ``test`` folder, a count or a fraction.
        skip_broken: leave out pictures that cannot be read, and say how many, instead of stopping.
        cache: where the decoded pictures are kept, ``image_size^2 * channels`` bytes each: a folder, or ``auto``
            (see ``PictureCache``). None keeps none, and every process decodes and holds its own.
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
        check_positive("dataset.image_size", image_size, integer=True)
        check_positive("dataset.test_size", test_size)
        if channels not in (1, 3):
            raise UsageError(f"dataset.channels must be 1 (grey) or 3 (RGB), got {channels}")
        if root is None:
            raise UsageError("dataset.root is missing: name the folder that holds the pictures")
        if cache is not None and (not isinstance(cache, str) or not cache):
            raise UsageError(f"dataset.cache must be auto, a folder or null, got {cache!r}")
        self.root = Path(root)
        self.image_size = image_size
        self.channels = channels
        self.test_size = test_size
        self.skip_broken = skip_broken
        self.cache = None if cache is None else PictureCache(self.root, cache, image_size, channels)
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
            self._kept(folder)

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
            decoded = self._kept(folder) or decode(self._files(folder), self.image_size, self.channels)
            self._report_broken(folder, decoded[1])
            self._decoded[folder] = decoded
        x, readable = self._decoded[folder]
        rows = torch.arange(len(x)) if chosen is None else chosen
        return Examples(x, self._labels(folder), rows[readable[rows]])

    def _files(self, folder: Path) -> PictureFiles:
        if folder not in self._found:
            self._found[folder] = PictureFiles.find(folder)
        return self._found[folder]

    def _kept(self, folder: Path) -> tuple[Tensor, Tensor] | None:
        """The pictures (N, C, S, S) and which of them could be read, bool (N,); None without a cache."""
        if self.cache is None:
            return None
        try:
            return self.cache.load(self._files(folder))
        except OSError as error:
            rank_zero_warn(
                f"the decoded pictures cannot be kept ({error}), so that every process decodes and holds its own; "
                "set dataset.cache to a folder that can be written, or to null"
            )
            self.cache = None
        return None

    def _report_broken(self, folder: Path, readable: Tensor) -> None:
        paths, broken = self._files(folder).paths, (~readable).nonzero().flatten().tolist()
        if not broken:
            return
        first = paths[broken[0]]
        reason = decode_error(first, self.image_size, self.channels)
        message = f"{len(broken)} of {len(paths)} pictures in {folder} cannot be read, the first is {first}: {reason}"
        if len(broken) == len(paths):
            raise UsageError(f"dataset.root: {message}; not one is left")
        if not self.skip_broken:
            raise UsageError(f"{message}; repair or remove them, or set dataset.skip_broken=true")
        rank_zero_warn(f"{message}; they are left out (dataset.skip_broken=true)")

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
