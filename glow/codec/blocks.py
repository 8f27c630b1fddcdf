"""A block of images in a file: what it holds, and checksums."""

import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from glow.codec.lanes import bounds, count
from glow.errors import UsageError

LENGTHS = struct.Struct("<4I")
"""Of a block: images, checksum of their pixels, bytes of names and of the stack; then both, and a checksum of all."""
CHECKSUM = struct.Struct("<I")
MOST_NAMES = 2**22
"""Bytes of the names of a block's images, which are compressed."""


class DamagedError(UsageError):
    """A file that is cut, changed or of another kind; the message says which images are lost."""


def write_block(file: BinaryIO, x: Tensor, names: Sequence[str] | None, words: np.ndarray) -> int:
    """Images (N, C, H, W), their names and what they were coded to; the number of bytes."""
    packed = zlib.compress("\n".join(names).encode(), 9) if names else b""
    data = words.astype("<u4").tobytes()
    content = LENGTHS.pack(len(x), checksum(x), len(packed), len(data)) + packed + data
    return file.write(content + CHECKSUM.pack(zlib.crc32(content)))


class StoredBlock(NamedTuple):
    """As it is in the file."""

    number: int
    where: str
    images: int
    pixels: int
    """Their checksum."""
    names: list[str] | None
    words: np.ndarray


def read_block(file: BinaryIO, i: int, n: int) -> StoredBlock:
    """Block i of a file of n images.

    Raises:
        DamagedError: it is not there, or another than was written.
    """
    first, last = bounds(i, n)
    where = f"block {i + 1} of {count(n)} (images {first + 1} to {last})"
    lengths = file.read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        raise DamagedError(f"the file ends before {where}")
    images, pixels, for_names, for_words = LENGTHS.unpack(lengths)
    data = _read_at_most(file, for_names + for_words)
    if file.read(CHECKSUM.size) != CHECKSUM.pack(zlib.crc32(lengths + data)) or for_words % 4:
        raise DamagedError(f"{where} is damaged")
    if images != last - first:
        raise DamagedError(f"{where} is not where it belongs")
    words = np.frombuffer(data, "<u4", offset=for_names).astype(np.uint32)
    try:
        names = _unpacked(data[:for_names], images)
    except (ValueError, zlib.error) as error:
        raise DamagedError(f"{where} is damaged ({error})") from error
    return StoredBlock(i, where, images, pixels, names, words)


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


def checksum(x: Tensor) -> int:
    """Of pixels."""
    return zlib.crc32(x.to("cpu", torch.uint8).contiguous().numpy().tobytes())
