"""Fixtures that every room uses."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from glow.commands.main import CONF, compose
from glow.commands.train import train

ROOT = CONF.parent

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, (os.cpu_count() or 1) // WORKERS)
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of the commands that tests start


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)


@pytest.fixture
def one_thread(_deterministic: None) -> None:
    """Threads gain nothing on tensors that are small, and wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``run("dataset=digits", ...)``: what ``python train.py ...`` does, in this process, below tmp_path."""
    return lambda *overrides: train(compose("train", [f"output_dir={tmp_path}/outputs", *overrides]))


def _trained(factory: pytest.TempPathFactory, *overrides: str) -> Path:
    folder = factory.mktemp("runs")
    tiny = [
        "debug=fast",
        "model.depth=1",
        "model.width=4",
        "callbacks.pictures=null",
        "callbacks.estimate=null",
    ]
    points = any("two_moons" in o for o in overrides)
    train(
        compose("train", [f"output_dir={folder}", "name=tiny", tiny[0], *tiny[1 + 2 * points :], *overrides])
    )
    return folder / "tiny"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps on the digits, with averaged weights. Do not write into it."""
    return _trained(tmp_path_factory, "trainer.limit_test_batches=null", "model.class_conditional=false")


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a class-conditional model."""
    return _trained(tmp_path_factory, "model.class_conditional=true")


@pytest.fixture(scope="session")
def points_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two moons."""
    small = ["dataset.train_size=400", "dataset.val_size=50", "dataset.test_size=300"]
    return _trained(tmp_path_factory, "experiment=two_moons", *small)


def write_idx(path: Path, values: np.ndarray) -> None:
    """The format of the MNIST files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def fake_mnist(tmp_path: Path) -> Path:
    """A root with 200 training and 60 test images in torchvision's layout, for MNIST and Fashion-MNIST."""
    rng = np.random.default_rng(0)
    for kind in ("MNIST", "FashionMNIST"):
        for stem, n in (("train", 200), ("t10k", 60)):
            raw = tmp_path / "data" / kind / "raw"
            write_idx(raw / f"{stem}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28)))
            write_idx(raw / f"{stem}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path / "data"


@pytest.fixture
def fake_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with CIFAR-10's files, 40 training and 20 test images; torchvision is told their checksums."""
    rng = np.random.default_rng(0)
    base = tmp_path / "data" / "cifar-10-batches-py"
    base.mkdir(parents=True)

    def write(name: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (base / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(name: str, n: int) -> list[str]:
        pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        return [name, write(name, {"data": pixels, "labels": [i % 10 for i in range(n)]})]

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch(f"data_batch_{i}", 8) for i in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch", 20)])
    md5 = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5}
    )
    return tmp_path / "data"


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    """Forty small pictures in two class folders."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "pictures"
