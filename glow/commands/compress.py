"""``python compress.py``: images to a file and back, without loss."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from glow.codec import Coder
from glow.codec.file import DamagedError, Header, read, read_header, write
from glow.codec.labels import cheapest_labels
from glow.commands.inputs import as_list, make_folder
from glow.commands.originals import LOSSLESS, originals
from glow.commands.session import Session
from glow.errors import UsageError, check_bool, check_positive
from glow.evaluation.pictures import to_bytes
from glow.weights import shipped


def compress(cfg: DictConfig) -> dict[str, Any]:
    """Compress or decompress as configured.

    Args:
        cfg: the composed ``conf/compress.yaml``.

    Returns:
        Images, bytes and bits/dim, and the seconds that it took.

    Raises:
        UsageError: a setting that cannot work, or a damaged file.
    """
    check_bool("verify", cfg.verify)
    if cfg.limit is not None:
        check_positive("limit", cfg.limit, integer=True)
    return encode(cfg) if cfg.decode is None else decode(cfg)


def encode(cfg: DictConfig) -> dict[str, Any]:
    """Images into the file ``out``, which appears when it is whole."""
    if not isinstance(cfg.out, str):
        raise UsageError(f"out must be the name of a file, got {cfg.out!r}")
    session = Session.open(cfg)
    coder, labels = (
        Coder(session.density).to(session.density.device),
        cheapest_labels(session.density, _tried(session)),
    )
    images, path, start = originals(session), Path(cfg.out), time.perf_counter()
    make_folder(path.parent)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file, _progress("compressing", len(images), coder.dimensions) as tell:
            write(coder, images, file, labels, tell)
        took = time.perf_counter() - start
        if cfg.verify:
            with part.open("rb") as file:
                for _ in _read(coder, file, read_header(file), "verifying"):
                    pass
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    size, n = path.stat().st_size, len(images)
    bits = 8 * size / (n * coder.dimensions)
    checked = ", decoded and compared" if cfg.verify else ""
    print(
        f"wrote {path}: {n:,} images, {size:,} bytes, {bits:.4f} bits/dim in all{checked}; {n / took:,.0f} images/s"
    )
    return {"out": str(path), "images": n, "bytes": size, "bits_per_dim": bits, "seconds": took}


def decode(cfg: DictConfig) -> dict[str, Any]:
    """The file ``decode`` into pictures in the folder ``out``."""
    path, start = Path(str(cfg.decode)), time.perf_counter()
    folder = Path(path.stem if cfg.out in (None, "pictures.glow") else cfg.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"out={folder} is there and not an empty folder")
    n = 0
    try:
        with path.open("rb") as file:
            header = read_header(file)
            coder = _coder_of(cfg, header)
            make_folder(folder)
            for block in _read(coder, file, header, "decompressing"):
                names = block.names or [f"{block.first + i:06d}.png" for i in range(len(block.images))]
                _save(to_bytes(block.images, coder.grey_levels), names, folder)
                n += len(block.images)
        size = path.stat().st_size
    except OSError as error:
        raise UsageError(f"decode={path} cannot be read ({error})") from error
    except DamagedError as error:
        saved = f"; the {n:,} pictures before are in {folder}" if n else ""
        raise UsageError(f"decode={path}: {error}{saved}") from error
    took = time.perf_counter() - start
    print(f"wrote {n:,} pictures into {folder}; {n / took:,.0f} images/s")
    return {"out": str(folder), "images": n, "bytes": size, "seconds": took}


def _coder_of(cfg: DictConfig, header: Header) -> Coder:
    """Of ``ckpt``, or of the weights that come with the project and made the file."""
    candidates = [cfg.ckpt] if cfg.ckpt is not None else list(shipped())
    for name in candidates:
        session = Session.open(DictConfig({**cfg, "ckpt": name}))
        if session.density.event_shape == header.shape:
            coder = Coder(session.density).to(session.density.device)
            if coder.fingerprint.startswith(header.fingerprint):
                return coder
    if cfg.ckpt is None:
        raise UsageError(
            f"decode={cfg.decode} was not made by the weights that come with the project ({', '.join(candidates)}): "
            "set ckpt= to the model that made it"
        )
    raise UsageError(f"decode={cfg.decode} was made by another model than ckpt={cfg.ckpt}")


def _read(coder: Coder, file: Any, header: Header, what: str) -> Iterator[Any]:
    with tqdm(total=header.images, desc=what, unit=" images", disable=not sys.stderr.isatty()) as bar:
        for block in read(coder, file, header):
            bar.update(len(block.images))
            yield block


@contextmanager
def _progress(what: str, n: int, dimensions: int) -> Iterator[Any]:
    with tqdm(total=n, desc=what, unit=" images", disable=not sys.stderr.isatty()) as bar:

        def tell(done: int, bits: int) -> None:
            bar.set_postfix_str(f"{bits / (done * dimensions):.3f} bits/dim", refresh=False)
            bar.update(done - bar.n)

        yield tell


def _tried(session: Session) -> Sequence[int] | None:
    labels, classes = session.cfg.labels, session.density.classes
    if labels == "all":
        return None
    tried = [-1] if labels == "none" else as_list("labels", labels)
    for label in tried:
        if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < max(classes, 1):
            raise UsageError(
                f"labels must be all, none or a list of -1 (none) and classes below {classes}, got {labels}"
            )
    return tried


def _save(pictures: Tensor, names: Sequence[str], folder: Path) -> None:
    for picture, name in zip(pictures, names, strict=True):
        where = PurePosixPath(name)
        if (
            where.is_absolute()
            or ".." in where.parts
            or "\\" in name
            or "\0" in name
            or not name.lower().endswith(LOSSLESS)
        ):
            raise DamagedError(f"{name!r} is no name of a picture below a folder")
        path = folder / where
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).squeeze(-1).numpy()).save(path)
