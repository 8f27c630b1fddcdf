"""Any folder of pictures."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import ENOENT
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from glow.data.base import ArrayData, Examples, Split
from glow.data.picture_files import DECODING, pictures_below, read_picture, why_broken
from glow.data.shared_file import shared_file
from glow.errors import UsageError, check_bool, check_positive, check_size
from glow.seeds import generator


class Files(NamedTuple):
    """The pictures below a folder as they were found, sorted."""

    paths: list[Path]
    names: list[str]
    """The paths below the folder."""
    stamps: list[tuple[int, int]]
    """Bytes, and nanoseconds of the last change; (-1, -1) of a link to nothing."""


class ImageFolder(ArrayData):
    """Pictures of any size and mode below a folder, decoded once.

    The folder holds pictures or folders of classes, or it holds splits, ``train`` and perhaps ``test`` and
    ``val``, that do so. Without ``test``, and without ``val``, these are held out of the training pictures by
    the seed. The classes are the folders of the training pictures in alphabetical order; the pictures of a
    class may lie in folders of their own.

    Every picture is turned upright, resized so that its shorter side is ``image_size``, and centre-cropped.
    Grey, palette, CMYK, alpha (over white) and 16-bit pictures are converted.

    The decoded pictures are kept in a file that later starts, and all processes of a machine, map instead of
    reading the pictures again. It is made anew when a picture's path, size or time of change is another.

    Args:
        root: the folder.
        image_size: side of the square pictures in pixels.
        channels: 1 for grey, 3 for RGB.
        test_size: examples held out for testing when there is no ``test`` folder, a count or a fraction.
        skip_broken: leave out pictures that cannot be read, and say how many, instead of stopping.
        cache: where the decoded pictures are kept, ``image_size^2 * channels`` bytes each: a folder; ``auto``,
            hidden files (``.glow-*``) in ``root`` or, where that cannot be written, ``~/.cache/glow``; None keeps
            none, and every process decodes and holds its own.
        common: see ``ArrayData``.
    """

    def __init__(
        self,
        *,
        root: str | None,
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
        check_bool("dataset.skip_broken", skip_broken)
        if channels not in (1, 3):
            raise UsageError(f"dataset.channels must be 1 (grey) or 3 (RGB), got {channels}")
        if not isinstance(root, str):
            raise UsageError("dataset.root is missing: name the folder that holds the pictures")
        if cache is not None and (not isinstance(cache, str) or not cache):
            raise UsageError(f"dataset.cache must be auto, a folder or null, got {cache!r}")
        self.root = Path(root)
        self.image_size = image_size
        self.channels = channels
        self.test_size = test_size
        self.skip_broken = skip_broken
        self.cache = cache
        if not self.root.is_dir():
            raise UsageError(f"dataset.root={root} is not a folder")
        folders = _folders(self.root)
        self.split_folders = {name: self.root / name for name in folders if name in ("train", "val", "test")}
        if self.split_folders and ("train" not in folders or len(self.split_folders) < len(folders)):
            raise UsageError(
                f"dataset.root={root} holds the folders {', '.join(folders)}: either the splits train, val and "
                "test, of which train must be there, or classes of other names, not both"
            )
        self.folders = list(self.split_folders.values()) or [self.root]
        training = self.split_folders.get("train", self.root)
        self.class_index = {name: i for i, name in enumerate(_folders(training))}
        # What was found first stays, so that the test split of a long run is that of its start.
        self._found: dict[Path, Files] = {}
        self._decoded: dict[Path, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Decode the pictures into the cache; Lightning calls it on one process of a node."""
        for folder in self.folders:
            self._labels(folder)  # whose errors come before the pictures are read, which takes longer
        for folder in self.folders:
            self._cached(folder)

    def setup(self, stage: str) -> None:
        """Load what the stage needs. Devices that found different pictures would train on different splits."""
        if self.trainer is not None:
            keys = [self._key(folder) for folder in self.folders]
            if self.trainer.strategy.broadcast(keys) != keys:
                raise UsageError(
                    f"dataset.root={self.root}: the pictures changed while the processes started; repeat the "
                    "command when nothing writes there"
                )
        super().setup(stage)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the pictures: names and sizes, since copying a folder changes the times."""
        listing = [(f.names, [size for size, _ in f.stamps]) for f in map(self._files, self.folders)]
        return {"pictures": _digest(listing)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to continue with others, of which the same seed would hold out those that were trained on."""
        if state_dict["pictures"] != self.state_dict()["pictures"]:
            raise UsageError(
                f"dataset.root={self.root}: the pictures are not those that this run started with; restore them, or "
                "start over with resume=false"
            )

    def load(self, split: Split) -> Examples | None:
        """uint8 (N, C, S, S), labels (N,) or None when there are no class folders."""
        training = self.split_folders.get("train", self.root)
        if split != "train" and split in self.split_folders:
            return self._examples(self.split_folders[split])
        if split == "val":
            return None
        if "test" in self.split_folders:
            # What is wrong with it is better known before training than after.
            self._examples(self.split_folders["test"])
            return self._examples(training)
        total = len(self._files(training).paths)
        n = check_size("dataset.test_size", self.test_size, total)
        order = torch.randperm(total, generator=generator("cpu", "test", self.seed))
        return self._examples(training, (order[n:] if split == "train" else order[:n]).sort().values)

    def _examples(self, folder: Path, chosen: Tensor | None = None) -> Examples:
        """Those of the pictures of a folder, or of chosen ones, that could be read."""
        if folder not in self._decoded:
            cached, coarser = self._cached(folder), self.grey_levels not in (None, self.source_levels)
            self._check_memory(len(self._files(folder).paths), copies=(cached is None) + coarser)
            decoded = cached or self._in_memory(folder)
            self._say_broken(folder, decoded[1])
            self._decoded[folder] = decoded
        x, readable = self._decoded[folder]
        rows = torch.arange(len(x)) if chosen is None else chosen
        return Examples(x, self._labels(folder), rows[readable[rows]])

    def _files(self, folder: Path) -> Files:
        if folder not in self._found:
            paths = pictures_below(folder)
            above = len(str(folder / "x")) - 1
            self._found[folder] = Files(paths, [str(p)[above:] for p in paths], [_stamp(p) for p in paths])
        return self._found[folder]

    def _key(self, folder: Path) -> str:
        _, names, stamps = self._files(folder)
        return _digest((DECODING, names, stamps))

    def _cached(self, folder: Path) -> tuple[Tensor, Tensor] | None:
        """The pictures (N, C, S, S) and which of them could be read, bool (N,); None without a cache."""
        if self.cache is None:
            return None
        n, shape = len(self._files(folder).paths), (self.channels, self.image_size, self.image_size)
        size = n * self.channels * self.image_size**2

        def write(file: BinaryIO) -> None:
            nothing, readable = bytes(size // n), []
            for picture in self._read(folder):
                file.write(nothing if picture is None else picture.numpy().tobytes())
                readable.append(picture is not None)
            file.write(bytes(readable))

        kind = f".glow{'' if folder == self.root else '-' + folder.name}-{self.image_size}x{self.channels}-"
        try:
            place = self._place(f"{kind}{self._key(folder)}")
            content = shared_file(place, size + n, write, older=f"{kind}*")
        except OSError as error:
            rank_zero_warn(
                f"the decoded pictures cannot be kept ({error}), so that every process decodes and holds its own; "
                "set dataset.cache to a folder that can be written, or to null"
            )
            self.cache = None
            return None
        return content[:size].view(n, *shape), content[size:].bool()

    def _place(self, name: str) -> Path:
        if self.cache == "auto" and (os.access(self.root, os.W_OK) or (self.root / name).exists()):
            return self.root / name
        root = self.root.resolve()
        own = f"{root.name}-{_digest(str(root))}"
        if self.cache != "auto":
            return Path(str(self.cache), own, name)
        return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "glow", own, name)

    def _in_memory(self, folder: Path) -> tuple[Tensor, Tensor]:
        n = len(self._files(folder).paths)
        x = torch.zeros(n, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        readable = torch.ones(n, dtype=torch.bool)
        for i, picture in enumerate(self._read(folder)):
            if picture is None:
                readable[i] = False
            else:
                x[i] = picture
        return x, readable

    def _read(self, folder: Path) -> Iterator[Tensor | None]:
        """The pictures of a folder in their order; None for a broken one."""
        files = self._files(folder)

        def read(path: Path) -> Tensor | None:
            try:
                return read_picture(path, self.image_size, self.channels)
            # PIL raises OSError and ValueError, and SyntaxError and struct.error besides, for damaged files.
            except Exception as error:
                if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, ENOENT):
                    raise UsageError(
                        f"dataset.root: {path} cannot be opened ({error!r}); make it readable or remove it"
                    ) from error
                return None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from tqdm(
                pool.map(read, files.paths),
                desc=f"reading {folder}",
                total=len(files.paths),
                delay=2,
                disable=not sys.stderr.isatty(),
            )
        changed = [p for p, _, stamp in zip(*files, strict=True) if _stamp(p) != stamp]
        if changed:
            raise UsageError(
                f"dataset.root: {len(changed)} pictures below {folder} changed while they were read, the first is "
                f"{changed[0]}; repeat the command when nothing writes there"
            )

    def _say_broken(self, folder: Path, readable: Tensor) -> None:
        paths = self._files(folder).paths
        broken = (~readable).nonzero().flatten().tolist()
        if not broken:
            return
        first = paths[broken[0]]
        what = f"{len(broken)} of {len(paths)} pictures in {folder} cannot be read, the first is {first}: "
        what += why_broken(first, self.image_size, self.channels)
        if len(broken) == len(paths):
            raise UsageError(f"dataset.root: {what}; not one is left")
        if not self.skip_broken:
            raise UsageError(f"{what}; repair or remove them, or set dataset.skip_broken=true")
        rank_zero_warn(f"{what}; they are left out (dataset.skip_broken=true)")

    def _labels(self, folder: Path) -> Tensor | None:
        """The index of each picture's class, (N,); None if there are no classes or some picture is in none."""
        names = [n.rpartition(os.sep)[0].partition(os.sep)[0] for n in self._files(folder).names]
        loose = names.index("") if "" in names else None
        if self.classes is not None and (loose is not None or not self.class_index):
            raise UsageError(
                f"dataset.classes={self.classes}, but {self._files(folder).paths[loose or 0]} is in no class's folder; "
                "move it into one, or set dataset.classes=null"
            )
        if loose is not None or not self.class_index:
            return None
        if unknown := set(names) - self.class_index.keys():
            raise UsageError(
                f"{folder} has the class {min(unknown)}, which the training pictures lack; rename or remove it"
            )
        return torch.tensor([self.class_index[n] for n in names])

    def _check_memory(self, n: int, copies: int) -> None:
        trainer = self.trainer
        # The first process of a machine asks for all of them, which read at the same time.
        processes = trainer.num_devices if trainer is not None and trainer.local_rank == 0 else 1
        need = copies * processes * n * self.channels * self.image_size**2
        free = _available_memory()
        if free is not None and need > free:
            raise UsageError(
                f"{n} pictures of dataset.image_size={self.image_size} need about {need / 2**30:.0f} GiB of memory "
                f"to load, and {free / 2**30:.0f} GiB are free; choose a smaller dataset.image_size, or a folder for "
                "dataset.cache"
            )


def _digest(what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _folders(folder: Path) -> list[str]:
    return sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))


def _available_memory() -> int | None:
    """Bytes that can be had without swapping; None where Linux does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
