"""One process writes, all map; nobody ever sees a part."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from glow.data.picture_cache import PictureCache
from glow.data.picture_files import PictureFiles

Decoder = Callable[..., Iterator[Tensor | None]]
CONTENT = b"0123456789"
"""Ten grey pictures of one pixel."""


def some(root: Path, state: int = 1) -> PictureFiles:
    """Ten pictures, which ``decode`` need not read."""
    names = [f"{i}.png" for i in range(10)]
    return PictureFiles(root, [root / n for n in names], names, [(state, 0)] * 10)


def pixel(value: int) -> Tensor:
    return torch.full((1, 1, 1), value, dtype=torch.uint8)


@pytest.fixture
def decode_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Decoder], None]:
    return lambda decoder: monkeypatch.setattr("glow.data.picture_cache.read_pictures", decoder)


@pytest.fixture(autouse=True)
def digits(decode_by: Callable[[Decoder], None]) -> None:
    decode_by(lambda *args: map(pixel, CONTENT))


def refuse(*args: object) -> Iterator[Tensor]:
    raise AssertionError("the pictures are kept and must not be decoded")


def load(root: Path, state: int = 1) -> Tensor:
    return PictureCache(root, "auto", size=1, channels=1).load(some(root, state))[0]


def content(root: Path, state: int = 1) -> bytes:
    return bytes(load(root, state).flatten().tolist())


def cache(root: Path, state: int = 1) -> Path:
    return root / f".glow-1x1-{some(root, state).key()}.npy"


def names(root: Path) -> set[str]:
    return {p.name for p in root.iterdir()} - {".glow-lock"}


def whole(root: Path, *states: int) -> set[str]:
    """The names that are there when the pictures in these states are kept."""
    return {name for s in states for name in (cache(root, s).name, f"{cache(root, s).stem}-readable.npy")}


def test_it_is_written_once(tmp_path: Path, decode_by: Callable[[Decoder], None]) -> None:
    assert content(tmp_path) == CONTENT
    assert names(tmp_path) == whole(tmp_path, 1)
    decode_by(refuse)
    assert content(tmp_path) == CONTENT


def test_others_can_read_it(tmp_path: Path) -> None:
    x = load(tmp_path)
    kept = np.load(cache(tmp_path))
    assert (kept.shape, kept.dtype) == ((10, 1, 1, 1), np.uint8)
    assert torch.equal(torch.from_numpy(kept), x)


def test_which_could_be_read(tmp_path: Path, decode_by: Callable[[Decoder], None]) -> None:
    decode_by(lambda *args: iter([None if i == 3 else pixel(i) for i in range(10)]))
    for _ in range(2):
        x, readable = PictureCache(tmp_path, "auto", size=1, channels=1).load(some(tmp_path))
        assert readable.tolist() == [i != 3 for i in range(10)]
        assert x.flatten().tolist() == [0, 1, 2, 0, 4, 5, 6, 7, 8, 9]
        decode_by(refuse)


def test_its_pages_are_the_files_and_a_change_stays_here(tmp_path: Path) -> None:
    load(tmp_path)
    first, second = load(tmp_path).flatten(), load(tmp_path).flatten()
    with cache(tmp_path).open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"!")
    assert first[0] == second[0] == ord("!"), "they are copies"
    first[1] = 0
    assert second[1] == ord("1")
    assert cache(tmp_path).read_bytes().endswith(b"!123456789")


def test_the_processes_share_its_pages(tmp_path: Path, decode_by: Callable[[Decoder], None]) -> None:
    big = torch.ones(1, 512, 512, dtype=torch.uint8)
    decode_by(lambda *args: iter([big] * 10))
    PictureCache(tmp_path, "auto", size=512, channels=1).load(some(tmp_path))
    decode_by(refuse)
    context = multiprocessing.get_context("fork")
    barrier, sizes = context.Barrier(2), context.Queue()
    readers = [
        context.Process(target=_map_all, args=(tmp_path, barrier, sizes), daemon=True) for _ in range(2)
    ]
    for reader in readers:
        reader.start()
    for _ in readers:
        resident, private = sizes.get(timeout=60)
        assert resident >= 10 * 256
        assert private <= 0.1 * resident
    for reader in readers:
        reader.join()


def _map_all(root: Path, barrier: object, sizes: object) -> None:
    x, _ = PictureCache(root, "auto", size=512, channels=1).load(some(root))
    assert x.numpy().sum(dtype=int) == x.numel()  # numpy's, since torch's threads do not survive a fork
    barrier.wait(60)  # type: ignore[attr-defined]  # both have touched all pages
    resident = private = 0
    mine = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):
            mine = ".glow-512x1-" in line and "readable" not in line
        elif mine:
            resident += int(values[0]) if key == "Rss:" else 0
            private += int(values[0]) if key in ("Private_Clean:", "Private_Dirty:") else 0
    sizes.put((resident, private))  # type: ignore[attr-defined]
    barrier.wait(60)  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", [lambda b: b"", lambda b: b[:-5], lambda b: b[:40], lambda b: b + b"more"])
@pytest.mark.parametrize("which", ["pictures", "readable"])
def test_a_file_of_another_length_is_written_anew(
    tmp_path: Path, change: Callable[[bytes], bytes], which: str
) -> None:
    load(tmp_path)
    path = cache(tmp_path)
    path = path if which == "pictures" else path.with_name(f"{path.stem}-readable.npy")
    found = path.read_bytes()
    path.write_bytes(change(found))
    assert content(tmp_path) == CONTENT
    if which == "pictures" or len(change(found)) < len(found):
        assert path.read_bytes() == found


@pytest.mark.parametrize("other", [np.zeros((9, 1, 1, 1), np.uint8), np.zeros((10, 1, 1, 1), np.int8)])
def test_a_file_of_another_kind_is_written_anew(tmp_path: Path, other: np.ndarray) -> None:
    load(tmp_path)
    np.save(cache(tmp_path), other)
    assert content(tmp_path) == CONTENT


def test_an_object_in_it_is_not_unpickled(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return os.mkdir, (str(tmp_path / "hacked"),)

    np.save(cache(tmp_path), np.array([Hostile()] * 10, dtype=object), allow_pickle=True)
    assert content(tmp_path) == CONTENT
    assert not (tmp_path / "hacked").exists()


def test_an_error_leaves_nothing(tmp_path: Path, decode_by: Callable[[Decoder], None]) -> None:
    def fail(*args: object) -> Iterator[Tensor]:
        yield pixel(0)
        raise KeyboardInterrupt

    decode_by(fail)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path)
    assert names(tmp_path) == set()
    decode_by(lambda *args: map(pixel, CONTENT))
    assert content(tmp_path) == CONTENT


def _write_half(root: Path, started: Event) -> None:
    def half(*args: object) -> Iterator[Tensor]:
        yield pixel(0)
        started.set()
        time.sleep(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glow.data.picture_cache.read_pictures", half)
        load(root)


def test_what_a_killed_writer_left_is_not_taken_and_removed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    writer = context.Process(target=_write_half, args=(tmp_path, started))
    writer.start()
    assert started.wait(30)
    assert writer.pid is not None
    [half] = names(tmp_path)
    assert half.endswith(".partial")
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert content(tmp_path) == CONTENT
    assert names(tmp_path) == whole(tmp_path, 1)


def test_a_killed_writer_frees_the_lock_for_who_waits(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    writer = context.Process(target=_write_half, args=(tmp_path, started))
    writer.start()
    assert started.wait(30)
    read: list[bytes] = []
    waiter = threading.Thread(target=lambda: read.append(content(tmp_path)))
    waiter.start()
    time.sleep(0.3)
    assert not read
    os.kill(writer.pid, signal.SIGKILL)  # type: ignore[arg-type]
    writer.join()
    waiter.join(30)
    assert read == [CONTENT]
    assert capfd.readouterr().err.count(f"waiting for another process to write {tmp_path}") == 1


@pytest.mark.parametrize("error", [None, errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_several_at_once(
    tmp_path: Path,
    error: int | None,
    monkeypatch: pytest.MonkeyPatch,
    decode_by: Callable[[Decoder], None],
) -> None:
    """With locks one writes and the others wait; without, all write and one of the equal files stays."""
    if error is not None:

        def no_locks(*args: object) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr("fcntl.flock", no_locks)
    written, read = [], []

    def slowly(*args: object) -> Iterator[Tensor]:
        written.append(1)
        yield from map(pixel, CONTENT[:5])
        time.sleep(0.2)
        yield from map(pixel, CONTENT[5:])

    decode_by(slowly)
    threads = [threading.Thread(target=lambda: read.append(content(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [CONTENT] * 4
    assert len(written) == 1 if error is None else len(written) > 1
    assert names(tmp_path) == whole(tmp_path, 1)


def test_a_lock_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    assert content(tmp_path) == CONTENT


def test_stale_files_stay_and_are_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".glow-2x1-0.npy").write_bytes(b"of another size")
    mapped = load(tmp_path, state=1)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        load(tmp_path, state=2)
    printed = capsys.readouterr().err
    assert printed.count("stale caches, which may be removed when no process uses them") == 1
    assert cache(tmp_path, 1).name in printed
    assert cache(tmp_path, 2).name not in printed
    assert ".glow-2x1" not in printed
    assert names(tmp_path) == whole(tmp_path, 1, 2) | {".glow-2x1-0.npy"}
    assert bytes(mapped.flatten().tolist()) == CONTENT


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        PictureCache(tmp_path, str(tmp_path / "file"), size=1, channels=1).load(some(tmp_path))


def test_a_read_only_root_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decode_by: Callable[[Decoder], None]
) -> None:
    load(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    decode_by(refuse)
    assert content(tmp_path) == CONTENT


def test_a_full_disk_is_noticed_before_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decode_by: Callable[[Decoder], None]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=9))
    decode_by(refuse)
    with pytest.raises(OSError, match="No space left"):
        load(tmp_path)
