"""Every kind of broken data is named in one sentence that says what to do."""

import pickle
import shutil
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glow.data import TorchvisionData
from glow.data import picture_files as module
from glow.errors import UsageError

from .pictures import count, folder, kept, loaded


def png(width: int, height: int, rows: int) -> bytes:
    """A black grey PNG of that size by its header, of which only some rows are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def noise(folder: Path, name: str) -> bytes:
    """The first 700 bytes of a picture of some thousand."""
    Image.effect_noise((64, 64), 50).save(folder / name)
    return (folder / name).read_bytes()[:700]


class TestPictures:
    @pytest.mark.parametrize("cache", ["auto", None])
    @pytest.mark.parametrize(
        ("name", "content", "why"),
        [
            ("empty.png", b"", "it is empty"),
            ("text.png", b"these are words", "its content is no picture, whatever its name says"),
            ("document.jpg", b"%PDF-1.7\n%\xe2\xe3\n1 0 obj\n<<>>\nendobj\n", "its content is no picture"),
            ("page.png", b"<!DOCTYPE html><html>404</html>", "its content is no picture"),
            ("cut.jpg", None, "truncated"),
            ("cut.png", None, "truncated"),
            ("header.png", png(50, 50, 20)[:20], r"."),
            ("bomb.png", png(30_000, 30_000, 1), "it has more than 178,956,970 pixels, make it smaller"),
        ],
        ids=lambda value: value if isinstance(value, str) and "." in value[1:] else "",
    )
    def test_a_broken_one_is_named_or_left_out_and_counted(
        self, picture_folder: Path, name: str, content: bytes | None, why: str, cache: str | None
    ) -> None:
        content = noise(picture_folder.parent, name) if content is None else content
        (picture_folder / "cat" / name).write_bytes(content)
        for _ in range(2):  # read, and from the cache
            with pytest.raises(
                UsageError,
                match=f"1 of 41 pictures in .*pictures cannot be read, the first is .*cat/{name}: .*{why}.*"
                "; repair or remove them, or set dataset.skip_broken=true",
            ):
                loaded(folder(picture_folder, cache=cache))
        for _ in range(2):
            with pytest.warns(UserWarning, match=f"1 of 41 pictures .*{name}.*they are left out") as warned:
                data = loaded(folder(picture_folder, cache=cache, skip_broken=True))
            assert len([w for w in warned if "left out" in str(w.message)]) == 1
            assert count(data) == 40

    def test_none_that_can_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"")
        (tmp_path / "b.png").write_bytes(b"")
        with pytest.raises(UsageError, match=r"dataset.root: 2 of 2 .*a.png: it is empty; not one is left"):
            loaded(folder(tmp_path, skip_broken=True, test_size=1))

    def test_one_pixel_is_enlarged(self, tmp_path: Path) -> None:
        for i in range(4):
            Image.new("RGB", (1, 1), (i, 50, 100)).save(tmp_path / f"{i}.png")
        data = loaded(folder(tmp_path, test_size=1, val_size=1))
        x = torch.cat([data.arrays(split)[0] for split in data.examples])
        assert x.flatten(2).float().std(dim=2).max() == 0
        assert sorted(x[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]

    def test_one_that_may_not_be_opened_stops_whatever_skip_broken_says(
        self, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not broken, and what is left out stays in the cache."""

        def refuse(path: Path, *args: int) -> torch.Tensor:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(module, "read_picture", refuse)
        with pytest.raises(UsageError, match=r"dataset.root: .*png cannot be opened .*; make it readable"):
            loaded(folder(picture_folder, skip_broken=True))
        assert kept(picture_folder) == []

    def test_a_link_to_nothing(self, picture_folder: Path) -> None:
        (picture_folder / "cat" / "link.png").symlink_to(picture_folder / "nowhere.png")
        with pytest.raises(UsageError, match=r"1 of 41 .*link.png: .*No such file"):
            loaded(folder(picture_folder))


class TestAFolderThatChanges:
    @pytest.mark.parametrize("cache", ["auto", None])
    @pytest.mark.parametrize("how", ["vanish", "change"])
    def test_between_scan_and_read(
        self, picture_folder: Path, monkeypatch: pytest.MonkeyPatch, how: str, cache: str | None
    ) -> None:
        victim, read = picture_folder / "dog" / "9.png", module.read_picture

        def meanwhile(*args: Any) -> torch.Tensor:
            if how == "vanish":
                victim.unlink(missing_ok=True)
            else:
                victim.write_bytes(b"half")
            return read(*args)

        monkeypatch.setattr(module, "read_picture", meanwhile)
        with pytest.raises(
            UsageError,
            match=r"dataset.root: 1 pictures below .* changed while they were read, the first is .*9.png; repeat",
        ):
            loaded(folder(picture_folder, cache=cache, skip_broken=True))
        assert kept(picture_folder) == []

    def test_while_training_nothing_is_read_again(self, picture_folder: Path) -> None:
        whole = loaded(folder(picture_folder)).arrays("test")[0]
        data = folder(picture_folder)
        data.prepare_data()
        data.setup("fit")
        shutil.rmtree(picture_folder)
        data.setup("test")
        assert torch.equal(data.arrays("test")[0], whole)

    def test_between_two_starts(self, picture_folder: Path) -> None:
        before = count(loaded(folder(picture_folder)))
        [old] = kept(picture_folder)
        (picture_folder / "dog" / "9.png").unlink()
        assert count(loaded(folder(picture_folder))) == before - 1
        assert len(kept(picture_folder)) == 2
        assert old in kept(picture_folder), "another process may be reading it"
        Image.new("RGB", (9, 9)).save(picture_folder / "dog" / "8.png")
        data = loaded(folder(picture_folder))
        assert any((x == 0).all() for split in data.examples for x in data.arrays(split)[0])

    def test_between_the_starts_of_two_devices(self, picture_folder: Path) -> None:
        data = folder(picture_folder)
        strategy = SimpleNamespace(broadcast=lambda keys: ["another"])
        data.trainer = SimpleNamespace(strategy=strategy)  # type: ignore[assignment]
        with pytest.raises(
            UsageError, match="the pictures changed while the processes started; repeat the command"
        ):
            data.setup("fit")

    def test_between_a_run_and_its_continuation(self, picture_folder: Path, tmp_path: Path) -> None:
        state = folder(picture_folder).state_dict()
        shutil.copytree(picture_folder, tmp_path / "copy", copy_function=shutil.copyfile)
        folder(tmp_path / "copy").load_state_dict(state)
        (tmp_path / "copy" / "cat" / "0.png").unlink()
        with pytest.raises(
            UsageError, match="the pictures are not those that this run started with; .*resume=false"
        ):
            folder(tmp_path / "copy").load_state_dict(state)


class TestLabels:
    def test_a_class_that_training_lacks_is_told_before_reading(self, picture_folder: Path) -> None:
        root = picture_folder.parent / "splits"
        shutil.copytree(picture_folder, root / "train")
        shutil.copytree(picture_folder / "dog", root / "test" / "yak")
        with pytest.raises(
            UsageError, match="test has the class yak, which the training pictures lack; rename or remove it"
        ):
            folder(root).prepare_data()

    def test_test_pictures_without_classes(self, picture_folder: Path) -> None:
        root = picture_folder.parent / "splits"
        shutil.copytree(picture_folder, root / "train")
        shutil.copytree(picture_folder / "dog", root / "test")
        assert loaded(folder(root)).arrays("test")[1] is None
        with pytest.raises(
            UsageError, match=r"dataset.classes=2, but .*test/0.png is in no class's folder; move it"
        ):
            folder(root, classes=2).prepare_data()

    def test_more_classes_than_said(self, picture_folder: Path) -> None:
        with pytest.raises(UsageError, match="labels up to 1, but dataset.classes=1; it must be at least 2"):
            loaded(folder(picture_folder, classes=1))


class TestTorchvision:
    def mnist(self, root: Path) -> TorchvisionData:
        return TorchvisionData(kind="MNIST", root=str(root), name="m", shape=[1, 28, 28], batch_size=8)

    @pytest.mark.parametrize("name", ["images-idx3", "labels-idx1"])
    @pytest.mark.parametrize("stem", ["train", "t10k"])
    @pytest.mark.parametrize("keep", [0.0, 0.5, 0.999])
    def test_an_idx_file_cut(self, fake_mnist: Path, stem: str, name: str, keep: float) -> None:
        path = fake_mnist / "MNIST/raw" / f"{stem}-{name}-ubyte"
        content = path.read_bytes()
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(
            UsageError,
            match=r"the files of MNIST in dataset.root=.* are damaged \(.+\); remove them and repeat the command",
        ):
            self.mnist(fake_mnist).prepare_data()

    def test_fewer_labels_than_images(
        self, fake_mnist: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        labels = struct.pack(">HBBI", 0, 8, 1, 150) + bytes(150)
        (fake_mnist / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(labels)
        with pytest.raises(UsageError, match=r"are damaged \(200 images and 150 labels\); remove them"):
            self.mnist(fake_mnist).prepare_data()

    def test_an_archive_cut_without_network(self, fake_mnist: Path, no_network: None) -> None:
        raw = fake_mnist / "MNIST/raw"
        (raw / "train-images-idx3-ubyte").unlink()
        (raw / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00half of an archive")
        with pytest.raises(
            UsageError,
            match=r"MNIST is not, or not whole, in dataset.root=.* could not be downloaded \(.+\); set",
        ):
            self.mnist(fake_mnist).prepare_data()

    @pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
    def test_a_cifar_batch_cut_without_network(self, fake_cifar: Path, no_network: None, name: str) -> None:
        path = fake_cifar / "cifar-10-batches-py" / name
        path.write_bytes(path.read_bytes()[:30])
        data = TorchvisionData(
            kind="CIFAR10", root=str(fake_cifar), name="c", shape=[3, 32, 32], batch_size=8
        )
        with pytest.raises(UsageError, match=r"CIFAR10 is not, or not whole, in .* could not be downloaded"):
            data.prepare_data()

    def test_a_cifar_batch_with_fewer_labels(self, fake_cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
        batch = {"data": np.zeros((8, 3072), np.uint8), "labels": [0] * 7}
        (fake_cifar / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(batch))
        data = TorchvisionData(
            kind="CIFAR10", root=str(fake_cifar), name="c", shape=[3, 32, 32], batch_size=8
        )
        with pytest.raises(UsageError, match=r"are damaged \(40 images and 39 labels\)"):
            data.prepare_data()

    @pytest.fixture
    def no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
        monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
