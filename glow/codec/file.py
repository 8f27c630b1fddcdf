"""Files of compressed images: a header, and blocks of images, each with checksums.

Blocks are dealt to lanes in turn, which are coded side by side, each on a stack of its own. A lane is coded from its last
block to its first, and the file is written the other way round: a reader has the first images first, and what a block
borrowed is on its lane's stack when the lane's next one is read. So damage costs its block and those after it.
"""

import math
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from glow.codec.blocks import CHECKSUM, DamagedError, StoredBlock, checksum, read_block, write_block
from glow.codec.coder import BORROWED, VERSION, Coder
from glow.codec.lanes import LANES, Report, SideBySide, bounds, rounds
from glow.codec.stack import WORD, Stack
from glow.errors import UsageError

MAGIC = b"\x89glow\r\n\x1a"  # as PNG's, changed by every transfer that takes it for text
HEADER = struct.Struct("<8sB16s4HI")
"""Magic number, version, half of the fingerprint, shape and grey levels, number of images; a checksum follows."""


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
        images: at least one; a block of them for every lane is in memory at a time.
        file: where to, from its position.
        labels: of images (N, C, H, W) and the index of the first of them, see ``Coder.push``.
        progress: called after every group of images.
        folder: for a temporary file of the blocks, whose order turns round; the system's when absent.
    """
    n, done = len(images), 0
    words = [np.zeros(0, np.uint32) for _ in range(LANES)]

    def push(report: Report, i: int, pixels: np.ndarray, words: np.ndarray) -> np.ndarray:
        stack, x = Stack(words), torch.from_numpy(pixels)
        coder.push(
            stack, x, labels(x, bounds(i, n)[0]), lambda left: report(len(x) - left, WORD * len(stack))
        )
        return stack.words()

    with (
        tempfile.TemporaryFile(dir=folder) as spool,
        SideBySide(
            push, n, coder.device, lambda new, bits: progress(done + new, 8 * spool.tell() + bits)
        ) as lanes,
    ):
        places: list[tuple[int, int]] = []
        for blocks in reversed(rounds(n)):
            pixels = [images.read(*bounds(i, n)) for i in blocks]
            jobs = [(i, x.numpy(), words[i % LANES]) for i, x in zip(blocks, pixels, strict=True)]
            for i, x, found in reversed(list(zip(blocks, pixels, lanes.map(jobs), strict=True))):
                cut = max(0, len(found) - _kept(coder, i))
                places.append((spool.tell(), write_block(spool, x, images.names(*bounds(i, n)), found[:cut])))
                words[i % LANES] = found[cut:]
            done += sum(map(len, pixels))
        fingerprint = bytes.fromhex(coder.fingerprint)[:16]
        header = HEADER.pack(MAGIC, VERSION, fingerprint, *coder.shape, coder.grey_levels, n)
        file.write(header + CHECKSUM.pack(zlib.crc32(header)))
        for place, size in reversed(places):
            spool.seek(place)
            file.write(spool.read(size))


def _kept(coder: Coder, block: int) -> int:
    """Words of a block's stack that the block before it in its lane, if there is one, borrows from."""
    return math.ceil(coder.group * BORROWED * coder.dimensions / WORD) if block >= LANES else 0


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


def read(
    coder: Coder, file: BinaryIO, header: Header, progress: Callable[[int], None] = lambda images: None
) -> Iterator[Block]:
    """The blocks behind a header, the first images first.

    Args:
        coder: the model.
        file: behind its header.
        header: what ``read_header`` said.
        progress: called after every group with the number of images so far.

    Raises:
        DamagedError: at the first block that is damaged.
        UsageError: the file is of another model.
    """
    if header.fingerprint != coder.fingerprint[: len(header.fingerprint)]:
        raise UsageError(
            f"the file was compressed by another model, whose fingerprint is {header.fingerprint}"
        )
    n, done = header.images, 0
    words = [np.zeros(0, np.uint32) for _ in range(LANES)]

    def pop(report: Report, block: StoredBlock, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        try:
            stack = Stack(np.concatenate((block.words, words)))
            x = coder.pop(stack, block.images, lambda done: report(done, 0))
        except (MemoryError, torch.OutOfMemoryError, CancelledError):
            raise
        except Exception as error:  # nonsense behind right checksums: libraries raise what they raise
            raise DamagedError(f"{block.where} is damaged ({error})") from error
        return x.numpy(), stack.words()

    with SideBySide(pop, n, coder.device, lambda new, _: progress(done + new)) as lanes:
        for round_ in rounds(n):
            blocks: list[StoredBlock] = []
            damage: DamagedError | None = None
            for i in round_:
                try:
                    blocks.append(read_block(file, i, n))
                except DamagedError as error:  # those before it are whole
                    damage = error
                    break
            jobs = [(block, words[block.number % LANES]) for block in blocks]
            for block, (pixels, rest) in zip(blocks, lanes.map(jobs), strict=True):
                words[block.number % LANES], x = rest, torch.from_numpy(pixels)
                if len(x) != block.images or checksum(x) != block.pixels:
                    raise DamagedError(
                        f"{block.where} gave other pixels than were compressed, so that they are left out"
                    )
                yield Block(bounds(block.number, n)[0], x, block.names)
            done += sum(block.images for block in blocks)
            if damage is not None:
                raise damage
    if file.read(1):
        raise DamagedError("behind the last block there is something else; all images were read")
