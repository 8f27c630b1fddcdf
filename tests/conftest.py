"""Fixtures that every room uses."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra._internal.config_repository import ConfigRepository
from PIL import Image
from scipy.io import savemat
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


@pytest.fixture(scope="session", autouse=True)
def _configurations_are_parsed_once() -> Iterator[None]:
    """Hydra parses all files of ``conf`` for every command; no test changes them. Copies, since Hydra writes into them."""
    parse, parsed = ConfigRepository.load_config, dict[Any, bytes]()

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        key = config_path, *(source.path for source in self.sources)
        if key not in parsed:
            parsed[key] = pickle.dumps(parse(self, config_path))
        return pickle.loads(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_config)
        yield


@pytest.fixture
def one_thread(_deterministic: None) -> None:
    """Threads gain nothing on tensors that are small, and wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def device() -> torch.device:
    """That of tests marked ``gpu``; the CPU in ``scripts/gpu_report.py --dry-run``, so that no mistake waits for a GPU."""
    kind = os.environ.get("GLOW_GPU_TESTS_ON", "cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(kind)


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


def write_pickle(path: Path, content: dict[str, Any]) -> str:
    """The format of CIFAR's files; returns the checksum that torchvision is to be told."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pickle.dumps(content)
    path.write_bytes(data)
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def fake_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with CIFAR-10's files, 40 training and 20 test images; torchvision is told their checksums."""
    rng = np.random.default_rng(0)
    base = tmp_path / "data" / "cifar-10-batches-py"

    def batch(name: str, n: int) -> list[str]:
        pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        return [name, write_pickle(base / name, {"data": pixels, "labels": [i % 10 for i in range(n)]})]

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [batch(f"data_batch_{i}", 8) for i in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [batch("test_batch", 20)])
    md5 = write_pickle(base / "batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5}
    )
    return tmp_path / "data"


@pytest.fixture
def fake_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same of CIFAR-100, 40 training and 20 test images, in a folder of its own below the same root."""
    rng = np.random.default_rng(100)
    base = tmp_path / "data" / "cifar-100-python"
    for name, n in (("train", 40), ("test", 20)):
        content = {
            "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            "fine_labels": [5 * i % 100 for i in range(n)],
            "coarse_labels": [i % 20 for i in range(n)],
        }
        monkeypatch.setattr(datasets.CIFAR100, f"{name}_list", [[name, write_pickle(base / name, content)]])
    md5 = write_pickle(base / "meta", {"fine_label_names": [str(i) for i in range(100)]})
    monkeypatch.setattr(
        datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5}
    )
    return tmp_path / "data"


@pytest.fixture
def fake_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with SVHN's files, 40 training and 20 test images, the digit 0 labelled 10; torchvision is told their checksums."""
    rng = np.random.default_rng(1)
    root = tmp_path / "data"
    root.mkdir(exist_ok=True)
    files = {}
    for split, n in (("train", 40), ("test", 20)):
        path = root / f"{split}_32x32.mat"
        y = (np.arange(n)[:, None] % 10 + 1).astype(np.uint8)
        savemat(
            path, {"X": rng.integers(0, 256, (32, 32, 3, n), dtype=np.uint8), "y": y}, do_compression=True
        )
        files[split] = ["nowhere", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(datasets.SVHN, "split_list", files)
    return root


@pytest.fixture
def fake_celeba(tmp_path: Path) -> Path:
    """A root with CelebA's pictures and partition, 12 for training, 4 for validation and 6 for testing."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "data" / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    lines = []
    for i in range(22):
        name = f"{i + 1:06d}.jpg"
        colours = rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((178, 218)).save(folder / name)
        lines.append(f"{name} {0 if i < 12 else 1 if i < 16 else 2}\n")
    (folder.parent / "list_eval_partition.txt").write_text("".join(lines))
    return tmp_path / "data"


def write_imagenet(root: Path, size: int, folders: tuple[str, str, str]) -> None:
    """The ten training batches of 4 images in the first two folders, ``val_data`` of 10 in the last."""
    rng = np.random.default_rng(size)
    names = [(folders[i > 5], f"train_data_batch_{i}", 4) for i in range(1, 11)]
    for folder, name, n in [*names, (folders[2], "val_data", 10)]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        data = rng.integers(0, 256, (n, 3 * size**2), dtype=np.uint8)
        labels = np.linspace(1, 1000, n).astype(np.int64)
        np.savez(root / folder / f"{name}.npz", data=data, labels=labels, mean=data.mean(0))


@pytest.fixture
def fake_imagenet(tmp_path: Path) -> Path:
    """A root with the unpacked archives of ImageNet at 32x32 and 64x64, 40 training and 10 test images each."""
    root = tmp_path / "data"
    write_imagenet(root, 32, ("Imagenet32_train_npz", "Imagenet32_train_npz", "Imagenet32_val_npz"))
    parts = ("Imagenet64_train_part1_npz", "Imagenet64_train_part2_npz")
    write_imagenet(root, 64, (*parts, "Imagenet64_val_npz"))
    return root


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
