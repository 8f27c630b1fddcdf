"""``python compress.py``: images to a file and back, without loss."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from glow.checkpoint import load
from glow.codec import Coder
from glow.codec.file import DamagedError, Header, read, read_header, write
from glow.codec.labels import cheapest_labels
from glow.commands.allocator import keep_freed_memory
from glow.commands.inputs import as_list, choose_device, make_folder
from glow.commands.originals import is_picture_name, originals
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
    keep_freed_memory()
    check_bool("verify", cfg.verify)
    if cfg.limit is not None:
        check_positive("limit", cfg.limit, integer=True)
    return encode(cfg) if cfg.decode is None else decode(cfg)


def encode(cfg: DictConfig) -> dict[str, Any]:
    """Images into the file ``out``, which appears when it is whole."""
    path = Path("pictures.glow" if cfg.out is None else str(cfg.out))
    if path.is_dir():
        raise UsageError(f"out={path} is a folder: add the name of a file")
    session = Session.open(cfg)
    coder, labels, images = (
        Coder(session.density),
        cheapest_labels(session.density, _tried(session)),
        originals(session),
    )
    folder, start = make_folder(path.parent), time.perf_counter()
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=folder)
    try:
        with os.fdopen(handle, "w+b") as file:
            with _progress("compressing", len(images), coder.dimensions) as report:
                write(coder, images, file, labels, report, folder)
            took = time.perf_counter() - start
            if cfg.verify:
                file.seek(0)
                for _ in _read(coder, file, read_header(file), "verifying"):
                    pass
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        raise UsageError(f"out={path} cannot be written ({error})") from error
    finally:
        Path(part).unlink(missing_ok=True)
    size, n = path.stat().st_size, len(images)
    bits = 8 * size / (n * coder.dimensions)
    checked = ", decoded and compared" if cfg.verify else ""
    print(
        f"wrote {path}: {n:,} images, {size:,} bytes, {bits:.4f} bits/dim in all{checked}; {n / took:,.0f} images/s"
    )
    return {"out": str(path), "images": n, "bytes": size, "bits_per_dim": bits, "seconds": took}


def decode(cfg: DictConfig) -> dict[str, Any]:
    """The file ``decode`` into pictures in the folder ``out``."""
    for key in ("images", "split", "limit"):
        if cfg[key] is not None:
            raise UsageError(f"{key}={cfg[key]} is of compressing: decode= reads all pictures of its file")
    path, start = Path(str(cfg.decode)), time.perf_counter()
    folder = Path(path.stem if cfg.out is None else str(cfg.out))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"out={folder} is there and not an empty folder")
    n = 0
    try:
        file = path.open("rb")
    except OSError as error:
        raise UsageError(f"decode={path} cannot be read ({error})") from error
    with file:
        try:
            header = read_header(file)
            coder = _coder_of(cfg, header)
            make_folder(folder)
            for block in _read(coder, file, header, "decompressing"):
                names = block.names or [f"{block.first + i:06d}.png" for i in range(len(block.images))]
                _save(to_bytes(block.images, coder.grey_levels), names, folder)
                n += len(block.images)
        except DamagedError as error:
            saved = f"; the {n:,} pictures before are in {folder}" if n else ""
            raise UsageError(f"decode={path}: {error}{saved}") from error
        except OSError as error:
            raise UsageError(f"the pictures of {path} cannot be written into {folder} ({error})") from error
    took = time.perf_counter() - start
    print(f"wrote {n:,} pictures into {folder}; {n / took:,.0f} images/s")
    return {"out": str(folder), "images": n, "bytes": path.stat().st_size, "seconds": took}


def _coder_of(cfg: DictConfig, header: Header) -> Coder:
    """Of ``ckpt``, or of the weights that come with the project and made the file."""
    if cfg.ckpt is not None:
        coder = Coder(Session.open(cfg).density)
        if coder.fingerprint.startswith(header.fingerprint):
            return coder
        raise UsageError(f"decode={cfg.decode} was made by another model than ckpt={cfg.ckpt}")
    for name in shipped():
        flow = load(name).to(choose_device(cfg.device))
        if flow.event_shape == header.shape and (coder := Coder(flow)).fingerprint.startswith(
            header.fingerprint
        ):
            print(f"made by {name}")
            return coder
    raise UsageError(
        f"decode={cfg.decode} was not made by the weights that come with the project ({', '.join(shipped())}): "
        "set ckpt= to the model that made it"
    )


def _read(coder: Coder, file: Any, header: Header, what: str) -> Iterator[Any]:
    with tqdm(total=header.images, desc=what, unit=" images", disable=not sys.stderr.isatty()) as bar:
        yield from read(coder, file, header, lambda done: bar.update(done - bar.n))


@contextmanager
def _progress(what: str, n: int, dimensions: int) -> Iterator[Any]:
    with tqdm(total=n, desc=what, unit=" images", disable=not sys.stderr.isatty()) as bar:

        def report(done: int, bits: int) -> None:
            bar.set_postfix_str(f"{bits / (done * dimensions):.3f} bits/dim", refresh=False)
            bar.update(done - bar.n)

        yield report


def _tried(session: Session) -> Sequence[int] | None:
    labels, classes = session.cfg.labels, session.density.classes
    if labels == "all":
        return None
    tried = [-1] if labels == "none" else as_list("labels", labels)
    for label in tried:
        if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < classes:
            raise UsageError(
                f"labels must be all, none or a list of -1 (none) and classes below {classes}, got {labels}"
            )
    return tried


def _save(pictures: Tensor, names: Sequence[str], folder: Path) -> None:
    for picture, name in zip(pictures, names, strict=True):
        if not is_picture_name(name):
            raise DamagedError(f"{name!r} is no name of a picture below a folder")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).squeeze(-1).numpy()).save(path)
