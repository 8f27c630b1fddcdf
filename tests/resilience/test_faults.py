"""Killed, out of disk, damaged: what is repeated is what would have been. Figures are in docs/reliability.md."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glow.checkpoint import read_model
from glow.commands.main import CONF
from glow.errors import DiskFullError
from glow.training import MaximumLikelihood

TINY = (
    "model.depth=1", "model.width=8", "dataset.batch_size=128", "objective.shift=0.1", "callbacks.estimate=null",
    "fit.validate_every=1",
    "callbacks.pictures=null",
)  # fmt: skip


def same_weights(first: Path, second: Path) -> None:
    one, two = (read_model(folder / "checkpoints/last.ckpt") for folder in (first, second))
    assert one.steps == two.steps
    for kind, state in one.weights.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, two.weights[kind][name]), f"{kind} {name}"


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_stopped_at_twenty_random_moments(tmp_path: Path) -> None:
    """By `kill -9` mostly, else by the signals; wherever it is: importing, training, validating, writing."""
    source, env = random.Random(0), os.environ | {"OMP_NUM_THREADS": "1"}
    settings = [
        *TINY,
        "fit.max_epochs=200",
        "callbacks.progress.every_seconds=0",
        f"output_dir={tmp_path}",
    ]

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(CONF.parent / "train.py"), f"name={name}", *settings]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
        )  # fmt: skip

    whole = start("whole")
    assert "done:" in whole.communicate()[0]
    reached = []
    for i in range(20):
        process = start("parts")
        number = source.choice([signal.SIGKILL] * 3 + [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        assert process.stdout is not None
        if i % 5 == 4:  # while it imports, builds, opens its folder
            time.sleep(source.uniform(0, 4))
        else:
            for line in process.stdout:
                if "continuing" in line or "new run" in line:
                    break
                assert not line.startswith("done:"), "the run is too short for twenty stops"
            time.sleep(source.uniform(0.5, 2))
        process.send_signal(number)
        rest = process.stdout.read()
        code = process.wait()
        status = code if code >= 0 else 128 - code  # what a shell sees
        assert status == 128 + number, rest
        file = tmp_path / "parts/checkpoints/last.ckpt"
        reached.append((signal.Signals(number).name, read_model(file).steps if file.is_file() else 0))
    output = start("parts").communicate()[0]
    assert "done:" in output, output
    print(reached)
    same_weights(tmp_path / "whole", tmp_path / "parts")
    curves = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("whole", "parts")]
    assert set(curves[0][0].split(",")) == set(curves[1][0].split(","))
    assert len(curves[1]) >= len(curves[0])


@pytest.mark.slow
def test_killed_inside_a_checkpoint_write(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """By `kill -9` of itself, when half of the third checkpoint's bytes are written."""
    program = (
        "import os, sys\nfrom glow.resilience import storage\nfrom glow.commands import main, train\n"
        "real, writes = storage.replace, []\n"
        "def cut(path, content, previous=None):\n"
        "    writes.append(path.name) if path.name == 'last.ckpt' else None\n"
        "    if len(writes) == 3:\n"
        "        path.with_name(path.name + '.new').write_bytes(content[: len(content) // 2])\n"
        "        os.kill(os.getpid(), 9)\n"
        "    real(path, content, previous)\n"
        "storage.replace = cut\n"
        "train.train(main.compose('train', sys.argv[1:]))\n"
    )
    arguments = [*TINY, "fit.max_epochs=4", "logger=none", f"output_dir={tmp_path}/outputs"]
    killed = subprocess.run(
        [sys.executable, "-c", program, "name=parts", *arguments], capture_output=True, check=False
    )
    assert killed.returncode == -9, killed.stderr.decode()
    folder = tmp_path / "outputs/parts/checkpoints"
    assert (folder / "last.ckpt.new").is_file()
    assert read_model(folder / "last.ckpt").steps == 22
    assert run("name=parts", *arguments)["steps"] == 44
    run("name=whole", *arguments)
    same_weights(tmp_path / "outputs/whole", tmp_path / "outputs/parts")
    assert not (folder / "last.ckpt.new").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MB; fill it with ``fill``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Until nothing more can be written."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return filler


@pytest.mark.parametrize(
    "logger",
    [
        ["logger=default"],
        *(
            pytest.param(o, marks=pytest.mark.slow)
            for o in (["logger=none"], ["logger=default", "logger.csv=null"])
        ),
    ],
    ids=" ".join,
)
def test_a_full_disk_stops_training_and_loses_nothing(
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    logger: list[str],
) -> None:
    (tmp_path / "outputs").symlink_to(small_disk)
    arguments = ["name=run", *TINY, *logger, "fit.max_epochs=4"]
    fillers = []
    with monkeypatch.context() as patch:

        def full(self: MaximumLikelihood, *args: Any) -> None:
            if self.trainer.global_step == 15:  # in the second epoch
                fillers.append(fill(small_disk))

        patch.setattr(MaximumLikelihood, "on_train_batch_start", full)
        with pytest.raises(DiskFullError, match=r"run/\S+ could not be written: no space left on device"):
            run(*arguments)
    last = small_disk / "run/checkpoints/last.ckpt"
    assert read_model(last).steps == 11
    fillers[0].unlink()
    assert run(*arguments)["steps"] == 44
    (tmp_path / "outputs").unlink()
    whole = run(*arguments)
    assert whole["steps"] == 44
    same_weights(tmp_path / "outputs/run", small_disk / "run")


def test_without_space_for_pictures_it_goes_on(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(picture: torch.Tensor, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("glow.training.pictures.save_picture", full)
    with pytest.warns(
        UserWarning, match=r"samples/\S+.png could not be written: no space left .*; going on without"
    ):
        results = run(*TINY[:-1], "name=run", "fit.max_epochs=1", "logger=none")
    assert results["steps"] == 11
    assert results["picture"] is None
    assert not list((tmp_path / "outputs/run/samples").iterdir())


@pytest.mark.parametrize(
    "damage", ["cut", *(pytest.param(d, marks=pytest.mark.slow) for d in ("flipped", "empty"))]
)
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    arguments = [*TINY, "fit.max_epochs=3", "logger=none"]
    with monkeypatch.context() as patch:

        def stop(self: MaximumLikelihood, *args: Any) -> None:
            if self.trainer.global_step == 16:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(MaximumLikelihood, "on_train_batch_start", stop)
        with pytest.raises(SystemExit):
            run("name=parts", *arguments)
    folder = tmp_path / "outputs/parts/checkpoints"
    last = folder / "last.ckpt"
    assert (read_model(last).steps, read_model(folder / "previous.ckpt").steps) == (17, 11)
    content = bytearray(last.read_bytes())
    for at in range(len(content) // 2, len(content) // 2 + 256):  # longer than any padding
        content[at] ^= 1
    last.write_bytes({"cut": content[:-1000], "flipped": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="last.ckpt is .* damaged; continuing previous.ckpt"):
        parts = run("name=parts", *arguments)
    assert parts["test"] == run("name=whole", *arguments)["test"]
    same_weights(tmp_path / "outputs/whole", tmp_path / "outputs/parts")


def test_a_damaged_best_checkpoint_is_not_tested(
    run: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage(self: MaximumLikelihood) -> None:
        best = tmp_path / "outputs/run/checkpoints/best.ckpt"
        best.write_bytes(best.read_bytes()[:-100])

    monkeypatch.setattr(MaximumLikelihood, "on_fit_end", damage)
    with pytest.warns(UserWarning, match=r"best.ckpt is .* damaged; it is not tested"):
        results = run("name=run", *TINY, "fit.max_epochs=1", "logger=none")
    assert results["checkpoint"] == "checkpoints/last.ckpt"
