"""One writes, all map; nobody ever sees a part."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import BinaryIO

import pytest
from glow.data.shared_file import shared_file


def refuse(file: BinaryIO) -> None:
    raise AssertionError("it is there and must not be written")


def text(path: Path, content: bytes = b"0123456789") -> bytes:
    tensor = shared_file(path, len(content), lambda file: file.write(content) and None, older="kept-*")
    return bytes(tensor.tolist())


def names(folder: Path) -> list[str]:
    gc.collect()
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_it_is_written_once(tmp_path: Path) -> None:
    assert text(tmp_path / "new" / "kept-1") == b"0123456789"
    again = shared_file(tmp_path / "new" / "kept-1", 10, refuse, older="kept-*")
    assert bytes(again.tolist()) == b"0123456789"


def test_its_pages_are_the_files_and_a_change_stays_here(tmp_path: Path) -> None:
    path = tmp_path / "kept-1"
    text(path)
    first, second = (shared_file(path, 10, refuse, older="kept-*") for _ in range(2))
    with path.open("r+b") as file:
        file.write(b"!")
    assert first[0] == second[0] == ord("!"), "they are copies"
    first[1] = 0
    assert second[1] == ord("1")
    assert path.read_bytes() == b"!123456789"


@pytest.mark.parametrize("found", [b"", b"01234", b"0123456789 and more"])
def test_a_file_of_another_length_is_written_anew(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "kept-1").write_bytes(found)
    assert text(tmp_path / "kept-1") == b"0123456789"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"01234")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_file(tmp_path / "kept-1", 10, fail, older="kept-*")
    assert names(tmp_path) == []
    assert text(tmp_path / "kept-1") == b"0123456789"


def _write_half(path: Path, started: Event) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"01234")
        file.flush()
        started.set()
        time.sleep(60)

    shared_file(path, 10, write, older="kept-*")


def test_what_a_killed_writer_left_is_not_taken_and_removed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started = context.Event()
    writer = context.Process(target=_write_half, args=(tmp_path / "kept-1", started))
    writer.start()
    assert started.wait(30)
    assert writer.pid is not None
    [half] = names(tmp_path)
    assert half.endswith(".partial")
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert text(tmp_path / "kept-1") == b"0123456789"
    assert names(tmp_path) == ["kept-1"]


@pytest.mark.parametrize("locks", [True, False])
def test_several_at_once(tmp_path: Path, locks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With locks one writes and the others wait; without, all write and one of the equal files stays."""
    if not locks:

        def no_locks(*args: object) -> None:
            raise OSError("no locks available")

        monkeypatch.setattr("glow.data.shared_file.flock", no_locks)
    written, read = [], []

    def write(file: BinaryIO) -> None:
        written.append(1)
        file.write(b"01234")
        time.sleep(0.2)
        file.write(b"56789")

    def start() -> None:
        read.append(bytes(shared_file(tmp_path / "kept-1", 10, write, older="kept-*").tolist()))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [b"0123456789"] * 4
    assert len(written) == 1 or not locks
    assert names(tmp_path) == ["kept-1"]


def test_older_files_are_removed_when_nobody_has_them_mapped(tmp_path: Path) -> None:
    text(tmp_path / "kept-1")
    (tmp_path / "other").write_bytes(b"not ours")
    mapped = shared_file(tmp_path / "kept-1", 10, refuse, older="kept-*")
    text(tmp_path / "kept-2")
    assert names(tmp_path) == ["kept-1", "kept-2", "other"]
    assert bytes(mapped.tolist()) == b"0123456789"
    del mapped
    gc.collect()
    text(tmp_path / "kept-3")
    assert names(tmp_path) == ["kept-3", "other"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        text(tmp_path / "file" / "kept-1")


def test_a_full_disk_is_noticed_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 9}))
    with pytest.raises(OSError, match="No space left"):
        shared_file(tmp_path / "kept-1", 10, refuse, older="kept-*")
