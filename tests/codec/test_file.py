"""Files: blocks, names, damage."""

from __future__ import annotations

import io
import random
import time
import weakref
import zlib
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from glow.codec import Coder, blocks, coder, decode, encode, file, lanes
from glow.errors import UsageError
from glow.flows import Glow

from .models import images, make


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "BLOCK", 16)
    monkeypatch.setattr(coder, "GROUP", 2)  # so that all but the last block leave words behind


class Named:
    """Images with names, read when they are asked for."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.x)

    def read(self, first: int, last: int) -> Tensor:
        self.asked.append((first, last))
        return self.x[first:last]

    def names(self, first: int, last: int) -> Sequence[str]:
        return [f"folder/{i}.png" for i in range(first, last)]


@pytest.fixture
def flow() -> Glow:
    return make("plain")


def written(flow: Glow, x: Tensor, source: file.Images | None = None) -> bytes:
    target = io.BytesIO()
    file.write(Coder(flow), source or Named(x), target)
    return target.getvalue()


def blocks_of(flow: Glow, data: bytes) -> list[file.Block]:
    stream = io.BytesIO(data)
    return list(file.read(Coder(flow), stream, file.read_header(stream)))


def lengths_of(data: bytes) -> list[tuple[int, ...]]:
    """What every block says of itself."""
    at, found = file.HEADER.size + blocks.CHECKSUM.size, []
    while at < len(data):
        found.append(blocks.LENGTHS.unpack(data[at : at + blocks.LENGTHS.size]))
        at += blocks.LENGTHS.size + sum(found[-1][2:]) + blocks.CHECKSUM.size
    return found


def test_blocks_have_their_images_and_names(flow: Glow) -> None:
    x = images(flow, 40)
    source, told = Named(x), []
    target = io.BytesIO()
    file.write(Coder(flow), source, target, progress=lambda done, bits: told.append((done, bits)))
    found = blocks_of(flow, target.getvalue())
    assert [b.first for b in found] == [0, 16, 32]
    assert torch.equal(torch.cat([b.images for b in found]), x)
    assert [name for b in found for name in b.names or []] == source.names(0, 40)
    assert source.asked == [(32, 40), (0, 16), (16, 32)]
    done, bits = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == 40
    words = sum(words for *_, words in lengths_of(target.getvalue()))
    assert 8 * words <= bits[-1] < 8 * len(target.getvalue())


def test_two_processes_write_and_read_what_one_does(flow: Glow) -> None:
    x = images(flow, 90)
    found, told = {}, []
    threads = torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        found[n] = written(flow, x)
        stream = io.BytesIO(found[n])
        blocks = list(file.read(Coder(flow), stream, file.read_header(stream), told.append))
        assert torch.equal(torch.cat([b.images for b in blocks]), x)
        assert told == sorted(told)
        assert told.pop() == 90
        told.clear()
        damaged = bytearray(found[n])
        damaged[-1] ^= 1
        with pytest.raises(UsageError, match="block 6 of 6"):
            blocks_of(flow, bytes(damaged))
    torch.set_num_threads(threads)
    assert found[1] == found[2]


def test_nothing_is_said_before_there_is_something(flow: Glow) -> None:
    told: list[int] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    file.write(
        Coder(flow),
        Named(images(flow, 40)),
        io.BytesIO(),
        lambda *_: time.sleep(0.5),
        lambda done, _: told.append(done),
    )
    torch.set_num_threads(threads)
    assert told[-1] == 40
    assert min(told) > 0


def test_blocks_before_the_damage_are_read(flow: Glow) -> None:
    x = images(flow, 64)
    data = bytearray(written(flow, x))
    sizes = [words for *_, words in lengths_of(bytes(data))]
    assert min(sizes) > 0
    data[len(data) - 10] ^= 4  # in the words of the last block
    stream = io.BytesIO(bytes(data))
    blocks = file.read(Coder(flow), stream, file.read_header(stream))
    assert torch.equal(torch.cat([next(blocks).images for _ in range(3)]), x[:48])
    with pytest.raises(file.DamagedError, match=r"^block 4 of 4 \(images 49 to 64\) is damaged$"):
        next(blocks)


def test_any_damage_is_a_sentence_or_does_no_harm(flow: Glow) -> None:
    x = images(flow, 48)
    data = written(flow, x)
    rng, model = random.Random(0), Coder(flow)
    for _ in range(150):
        hurt = bytearray(data)
        kind = rng.randrange(4)
        if kind == 0:
            del hurt[rng.randrange(len(hurt)) :]
        elif kind == 1:
            for _ in range(rng.randint(1, 4)):
                hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
        elif kind == 2:
            hurt = bytearray(rng.randbytes(rng.randrange(200)))
        else:
            at = rng.randrange(len(hurt))
            hurt[at:at] = rng.randbytes(rng.randint(1, 8))
        found, said = [x[:0]], ""
        try:
            stream = io.BytesIO(bytes(hurt))
            found.extend(b.images for b in file.read(model, stream, file.read_header(stream)))
        except UsageError as error:
            said = str(error)
        n = sum(map(len, found))
        assert torch.equal(torch.cat(found), x[:n])
        assert said or n == 48


def test_nonsense_with_right_checksums_is_a_sentence(flow: Glow) -> None:
    """What someone makes on purpose: every checksum is right, and the stack holds noise."""
    x = images(flow, 10)
    data = written(flow, x)
    start = file.HEADER.size + blocks.CHECKSUM.size
    for seed in range(40):
        noise = random.Random(seed).randbytes(4 * random.Random(seed).randrange(200))
        content = blocks.LENGTHS.pack(10, 0, 0, len(noise)) + noise
        crafted = data[:start] + content + blocks.CHECKSUM.pack(zlib.crc32(content))
        with pytest.raises(file.DamagedError, match="block 1 of 1"):
            blocks_of(flow, crafted)


def test_another_model_and_another_version_are_refused(flow: Glow) -> None:
    data = encode(flow, images(flow, 3))
    torch.manual_seed(1)
    with pytest.raises(UsageError, match="compressed by another model"):
        decode(make("plain"), data)
    other = bytearray(data)
    other[8] = 9
    with pytest.raises(UsageError, match="of version 9 of the format, and this program reads 1"):
        decode(flow, bytes(other))
    with pytest.raises(UsageError, match="behind the last block"):
        decode(flow, data + b"x")


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(0, 1, 4, 4).long(), r"images must be of shape \(N, \*\(1, 4, 4\)\), N at least 1"),
        (torch.zeros(2, 1, 4, 5).long(), r"got \(2, 1, 4, 5\)"),
        (torch.full((1, 1, 4, 4), 16), "integers from 0 to 15"),
        (torch.zeros(1, 1, 4, 4), "got torch.float32"),
    ],
)
def test_images_that_do_not_fit(flow: Glow, x: Tensor, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        encode(flow, x)


def test_memory_is_that_of_a_block_for_every_lane(flow: Glow) -> None:
    """Of all images that were read, only those of one round are held."""
    read: list[weakref.ref[Tensor]] = []

    class Made:
        def __len__(self) -> int:
            return 160

        def read(self, first: int, last: int) -> Tensor:
            x = images(flow, last - first)
            assert sum(r() is not None for r in read) < 2 * lanes.LANES
            read.append(weakref.ref(x))
            return x

        def names(self, first: int, last: int) -> None:
            return None

    data = written(flow, images(flow, 1), Made())
    assert len(read) == 10
    seen: list[weakref.ref[Tensor]] = []
    stream = io.BytesIO(data)
    for block in file.read(Coder(flow), stream, file.read_header(stream)):
        assert sum(r() is not None for r in seen) <= 1
        seen.append(weakref.ref(block.images))
    assert len(seen) == 10


def test_names_that_are_no_names(flow: Glow) -> None:
    """Behind right checksums: not packed, not text, too few, and a bomb."""
    data = written(flow, images(flow, 10))
    start = file.HEADER.size + blocks.CHECKSUM.size
    images_, pixels, for_names, for_words = blocks.LENGTHS.unpack(data[start : start + blocks.LENGTHS.size])
    words = data[-for_words - blocks.CHECKSUM.size : -blocks.CHECKSUM.size]
    for said in (b"xyz", zlib.compress(b"\xff\xfe"), zlib.compress(b"a\nb"), zlib.compress(bytes(10**8))):
        content = blocks.LENGTHS.pack(images_, pixels, len(said), for_words) + said + words
        crafted = data[:start] + content + blocks.CHECKSUM.pack(zlib.crc32(content))
        with pytest.raises(file.DamagedError, match="block 1 of 1 .* is damaged"):
            blocks_of(flow, crafted)
    assert for_names > 0
