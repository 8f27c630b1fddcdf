"""Files that are whole or not there, whenever the writing is cut short."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.fabric.loggers.csv_logs import _ExperimentWriter as ExperimentWriter

from glow.checkpoint import read_model
from glow.errors import DiskFullError, UnreadableError, UsageError
from glow.resilience import LastCheckpoint
from glow.resilience.csv_logger import AppendingCSVLogger
from glow.resilience.storage import DurableCheckpointIO, disk_full_errors, replace


class Killed(BaseException):
    """As if the process ended here: nothing catches it."""


def checkpoint(step: int) -> dict[str, object]:
    metadata = {"model": {"family": "glow"}, "dataset": None, "seed": 0}
    return {"hyper_parameters": metadata, "state_dict": {"flow.w": torch.arange(100.0)}, "global_step": step}


def save(folder: Path, step: int) -> None:
    DurableCheckpointIO().save_checkpoint(checkpoint(step), folder / "last.ckpt")


def step_of(folder: Path) -> int:
    newest = LastCheckpoint(str(folder)).latest_valid()
    assert newest is not None
    return read_model(newest).steps


@pytest.mark.parametrize("moment", range(5))
def test_a_write_that_is_killed_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Before the data reach the disk, before the old and the new file get their names, before the names reach the disk."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    calls = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == moment + 1:
                raise Killed
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        if moment < 4:
            with pytest.raises(Killed):
                save(tmp_path, 3)
        else:
            save(tmp_path, 3)
            assert calls == 4
    assert (tmp_path / "last.ckpt").is_file()
    assert (tmp_path / "last.ckpt.new").is_file() == (moment < 3)
    assert step_of(tmp_path) == (2 if moment < 3 else 3)
    save(tmp_path, 4)
    assert step_of(tmp_path) == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_only_the_last_checkpoint_has_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        for name in ("last", "best"):
            DurableCheckpointIO().save_checkpoint(checkpoint(step), tmp_path / f"{name}.ckpt")
    steps = {p.name: read_model(p).steps for p in tmp_path.iterdir()}
    assert steps == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 3}


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda b: b"",
    "cut in half": lambda b: b[: len(b) // 2],
    "without its last byte": lambda b: b[:-1],
    "zeros at the end": lambda b: b[: len(b) // 2] + bytes(len(b) - len(b) // 2),
    "a flipped bit in a weight": lambda b: flipped(b, b.index(torch.arange(100.0).numpy().tobytes()) + 40),
    "something else": lambda b: b"PK\x03\x04" + b[::-1],
}


def flipped(content: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    last = tmp_path / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    with pytest.warns(
        UserWarning, match=r"last.ckpt is .* damaged; continuing previous.ckpt, the one before"
    ):
        assert step_of(tmp_path) == 1
    assert not last.exists()
    assert (tmp_path / "last.ckpt.damaged").is_file()
    save(tmp_path, 2)
    assert step_of(tmp_path) == 2
    assert read_model(tmp_path / "previous.ckpt").steps == 1


def test_when_none_is_whole_it_says_so(tmp_path: Path) -> None:
    assert LastCheckpoint(str(tmp_path)).latest_valid() is None
    save(tmp_path, 1)
    save(tmp_path, 2)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"no checkpoint is whole, start over with resume=false"):
        LastCheckpoint(str(tmp_path)).latest_valid()


def test_no_flipped_bit_changes_what_is_read(tmp_path: Path) -> None:
    """Either the file is refused or the bit did not matter (the padding between its parts)."""
    save(tmp_path, 1)
    whole, source = (tmp_path / "last.ckpt").read_bytes(), random.Random(0)
    file, refused = tmp_path / "flipped.ckpt", 0
    for _ in range(300):
        file.write_bytes(flipped(whole, source.randrange(len(whole)), source.randrange(8)))
        try:
            saved = read_model(file)
        except UsageError:
            refused += 1
        else:
            assert torch.equal(saved.weights["raw"]["w"], torch.arange(100.0))
            assert saved.steps == 1
    assert refused > 150


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match=r"last.ckpt could not be written: no space left on device"):
        save(tmp_path, 2)
    assert step_of(tmp_path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_full_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory|File exists"):
        replace(tmp_path / "file" / "below", b"")


def test_a_log_that_finds_no_space_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    logger = AppendingCSVLogger(str(tmp_path))
    logger.log_metrics({"train/bpd": 3.0}, step=1)
    monkeypatch.setattr(ExperimentWriter, "save", full)
    with pytest.raises(DiskFullError, match=r"metrics.csv could not be written: no space left on device"):
        logger.save()


def test_without_links_there_is_always_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert [read_model(tmp_path / f"{n}.ckpt").steps for n in ("last", "previous")] == [3, 2]


def test_a_disk_that_refuses_for_the_moment_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def stale(*args: object, **options: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile", stale)
        with pytest.raises(UnreadableError, match="last.ckpt cannot be read now: Stale file handle"):
            LastCheckpoint(str(tmp_path)).latest_valid()
    assert step_of(tmp_path) == 2
