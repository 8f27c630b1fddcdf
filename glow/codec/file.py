"""Files of compressed images: a header, and blocks of images, each with checksums.

The blocks are coded from the last image to the first, and written the other way round: a reader has the first images
first, and what a block borrowed is on the stack when the next one is read. So damage costs its block and those after it.
"""

import math
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from glow.codec.coder import BORROWED, VERSION, Coder
from glow.codec.stack import WORD, Stack
from glow.errors import UsageError

MAGIC = b"\x89glow\r\n\x1a"  # as PNG's, changed by every transfer that takes it for text
BLOCK = 1024
"""Images of a block."""
HEADER = struct.Struct("<8sB16s4HI")
"""Magic number, version, half of the fingerprint, shape and grey levels, number of images; a checksum follows."""
LENGTHS = struct.Struct("<4I")
"""Of a block: images, checksum of their pixels, bytes of names and of the stack; then both, and a checksum of all."""
CHECKSUM = struct.Struct("<I")
MOST_NAMES = 2**22
"""Bytes of the names of a block's images, which are compressed."""


class DamagedError(UsageError):
    """A file that is cut, changed or of another kind; the message says which images are lost."""


class Images(Protocol):
    """Images that are read when they are needed."""

    def __len__(self) -> int: ...

    def read(self, first: int, last: int) -> Tensor:
        """Images ``first`` to ``last`` - 1, integers (N, C, H, W)."""

    def names(self, first: int, last: int) -> Sequence[str] | None:
        """Their names, if they have some."""


class InMemory:
    """Integers (N, C, H, W), which have no names."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def read(self, first: int, last: int) -> Tensor:
        """See ``Images``."""
        return self.x[first:last]

    def names(self, first: int, last: int) -> None:
        """See ``Images``."""


class Block(NamedTuple):
    """Images that were read from a file."""

    first: int
    images: Tensor
    """uint8 (N, C, H, W)."""
    names: list[str] | None


class Header(NamedTuple):
    """What a file says of itself."""

    fingerprint: str
    shape: tuple[int, int, int]
    grey_levels: int
    images: int


Labels = Callable[[Tensor, int], Tensor | None]
Progress = Callable[[int, int], None]
"""Called with the images that are done and the bits that they take."""


def write(
    coder: Coder,
    images: Images,
    file: BinaryIO,
    labels: Labels = lambda *_: None,
    progress: Progress = lambda *_: None,
    folder: Path | None = None,
) -> None:
    """Compress images into a file.

    Args:
        coder: the model.
        images: at least one; a block of them is in memory at a time.
        file: where to, from its position.
        labels: of images (N, C, H, W) and the index of the first of them, see ``Coder.push``.
        progress: called after every group of images.
        folder: for a temporary file of the blocks, whose order turns round; the system's when absent.
    """
    # Words that the next block borrows from.
    kept = math.ceil(coder.group * BORROWED * coder.dimensions / WORD)
    stack, n = Stack(), len(images)
    with tempfile.TemporaryFile(dir=folder) as spool:
        places: list[tuple[int, int]] = []
        for first in reversed(range(0, n, BLOCK)):
            last = min(first + BLOCK, n)
            x = images.read(first, last)
            report = partial(_report, progress, spool, stack, n - first)
            coder.push(stack, x, labels(x, first), report)
            words = stack.words()
            keep = min(kept, len(words)) if first else 0
            places.append(
                (spool.tell(), _write_block(spool, x, images.names(first, last), words[: len(words) - keep]))
            )
            stack = Stack(words[len(words) - keep :])
        fingerprint = bytes.fromhex(coder.fingerprint)[:16]
        header = HEADER.pack(MAGIC, VERSION, fingerprint, *coder.shape, coder.grey_levels, n)
        file.write(header + CHECKSUM.pack(zlib.crc32(header)))
        for place, size in reversed(places):
            spool.seek(place)
            file.write(spool.read(size))


def _report(progress: Progress, spool: BinaryIO, stack: Stack, begun: int, left: int) -> None:
    progress(begun - left, 8 * spool.tell() + WORD * len(stack))


def read_header(file: BinaryIO) -> Header:
    """What a file says of itself.

    Raises:
        DamagedError: it is no such file, or its first bytes are damaged.
    """
    data = file.read(HEADER.size)
    if data[: len(MAGIC)] != MAGIC:
        raise DamagedError("this is not a file of images that were compressed by a flow")
    if data[len(MAGIC) :][:1] not in (b"", bytes([VERSION])):
        raise DamagedError(
            f"it is of version {data[len(MAGIC)]} of the format, and this program reads {VERSION}"
        )
    if file.read(CHECKSUM.size) != CHECKSUM.pack(zlib.crc32(data)) or len(data) < HEADER.size:
        raise DamagedError("its header is damaged: no image can be read")
    _, _, fingerprint, channels, height, width, grey_levels, images = HEADER.unpack(data)
    return Header(fingerprint.hex(), (channels, height, width), grey_levels, images)


def read(coder: Coder, file: BinaryIO, header: Header) -> Iterator[Block]:
    """The blocks behind a header, the first images first.

    Raises:
        DamagedError: at the first block that is damaged.
        UsageError: the file is of another model.
    """
    if header.fingerprint != coder.fingerprint[: len(header.fingerprint)]:
        raise UsageError(
            f"the file was compressed by another model, whose fingerprint is {header.fingerprint}"
        )
    stack = Stack()
    blocks = math.ceil(header.images / BLOCK)
    for i in range(blocks):
        first = i * BLOCK
        n = min(BLOCK, header.images - first)
        where = f"block {i + 1} of {blocks} (images {first + 1} to {first + n})"
        pixels, packed, words = _read_block(file, n, where)
        try:
            names = _unpacked(packed, n)
            stack = Stack(np.concatenate((words, stack.words())))
            x = coder.pop(stack, n)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # nonsense behind right checksums: libraries raise what they raise
            raise DamagedError(f"{where} is damaged ({error})") from error
        if len(x) != n or _checksum(x) != pixels:
            raise DamagedError(f"{where} gave other pixels than were compressed, so that they are left out")
        yield Block(first, x, names)
    if file.read(1):
        raise DamagedError("behind the last block there is something else; all images were read")


def _write_block(spool: BinaryIO, x: Tensor, names: Sequence[str] | None, words: np.ndarray) -> int:
    packed = zlib.compress("\n".join(names).encode(), 9) if names else b""
    data = words.astype("<u4").tobytes()
    content = LENGTHS.pack(len(x), _checksum(x), len(packed), len(data)) + packed + data
    return spool.write(content + CHECKSUM.pack(zlib.crc32(content)))


def _read_block(file: BinaryIO, n: int, where: str) -> tuple[int, bytes, np.ndarray]:
    """Checksum of the pixels, packed names and words of a block of n images."""
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        raise DamagedError(f"the file ends before {where}")
    images, pixels, for_names, for_words = LENGTHS.unpack(lengths)
    data = _read_at_most(file, for_names + for_words)
    if file.read(CHECKSUM.size) != CHECKSUM.pack(zlib.crc32(lengths + data)) or for_words % 4:
        raise DamagedError(f"{where} is damaged")
    if images != n:
        raise DamagedError(f"{where} is not where it belongs")
    return pixels, data[:for_names], np.frombuffer(data, "<u4", offset=for_names).astype(np.uint32)


def _unpacked(packed: bytes, n: int) -> list[str] | None:
    if not packed:
        return None
    names = zlib.decompressobj().decompress(packed, MOST_NAMES).decode().split("\n")
    if len(names) != n:
        raise ValueError(f"{len(names)} names")
    return names


def _read_at_most(file: BinaryIO, n: int) -> bytes:
    """Piece by piece: a damaged length asks for no memory that the file does not fill."""
    pieces = []
    while n > 0 and (piece := file.read(min(n, 2**20))):
        pieces.append(piece)
        n -= len(piece)
    return b"".join(pieces)


def _checksum(x: Tensor) -> int:
    return zlib.crc32(x.to("cpu", torch.uint8).contiguous().numpy().tobytes())
