"""CIFAR-100, SVHN, CelebA and downsampled ImageNet, from files in their own formats that the test makes."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from glow.data import ArrayData, CelebA, DownsampledImageNet, TorchvisionData, build_data
from glow.data.picture_files import read_picture
from glow.errors import UsageError

from .pictures import kept, loaded


def data(which: str, root: Path, **options: Any) -> ArrayData:
    common = {"kind": which, "root": str(root), "name": which.lower(), "batch_size": 8, "val_size": 8}
    if which == "CelebA":
        return CelebA(**{**common, "image_size": 16, "shape": [3, 16, 16], **options})
    size = 64 if which == "ImageNet64" else 32
    cls = DownsampledImageNet if "ImageNet" in which else TorchvisionData
    return cls(**{**common, "shape": [3, size, size], **options})


def sizes(module: ArrayData) -> dict[str, int]:
    return {split: len(e) for split, e in module.examples.items()}


class TestTorchvision:
    def test_cifar100_has_its_fine_labels(self, fake_cifar100: Path) -> None:
        module = loaded(data("CIFAR100", fake_cifar100, classes=100))
        assert sizes(module) == {"train": 32, "val": 8, "test": 20}
        x, y = module.arrays("test")
        assert (x.shape, x.dtype) == ((20, 3, 32, 32), torch.uint8)
        assert y is not None
        assert y.tolist() == [5 * i % 100 for i in range(20)]

    def test_svhn(self, fake_svhn: Path) -> None:
        module = loaded(data("SVHN", fake_svhn, classes=10))
        assert sizes(module) == {"train": 32, "val": 8, "test": 20}
        x, y = module.arrays("test")
        there = loadmat(fake_svhn / "test_32x32.mat")["X"]
        assert torch.equal(x, torch.from_numpy(there).permute(3, 2, 0, 1))
        assert y is not None
        assert y.tolist() == [(i + 1) % 10 for i in range(20)], "the digit 0 is labelled 10 in the file"

    def test_svhn_is_downloaded_split_by_split(
        self, fake_svhn: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        there = {name: (fake_svhn / name).read_bytes() for name in ("train_32x32.mat", "test_32x32.mat")}
        for name in there:
            (fake_svhn / name).unlink()
        asked = []

        def download(url: str, root: Path, name: str, md5: str) -> None:
            asked.append(name)
            Path(root, name).write_bytes(there[name])

        monkeypatch.setattr("torchvision.datasets.svhn.download_url", download)
        assert sizes(loaded(data("SVHN", fake_svhn)))["test"] == 20
        assert asked == list(there)

    @pytest.mark.parametrize("name", ["train_32x32.mat", "test_32x32.mat"])
    def test_an_svhn_file_cut_without_network(
        self, fake_svhn: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        def refuse(*args: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr("torchvision.datasets.svhn.download_url", refuse)
        path = fake_svhn / name
        path.write_bytes(path.read_bytes()[:500])
        with pytest.raises(
            UsageError,
            match=r"SVHN is not, or not whole, in dataset.root=.* could not be downloaded \(no network\)",
        ):
            data("SVHN", fake_svhn).prepare_data()

    @pytest.mark.parametrize("content", ["labels", "cut"])
    def test_an_svhn_file_that_cannot_be_used(
        self, fake_svhn: Path, monkeypatch: pytest.MonkeyPatch, content: str
    ) -> None:
        monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *args: True)
        path = fake_svhn / "train_32x32.mat"
        if content == "cut":
            path.write_bytes(path.read_bytes()[:500])
        else:
            savemat(path, {"X": np.zeros((32, 32, 3, 5), np.uint8), "y": np.ones((4, 1), np.uint8)})
        with pytest.raises(
            UsageError, match=r"the files of SVHN in dataset.root=.* are damaged \(.+\); remove"
        ):
            data("SVHN", fake_svhn).prepare_data()


class TestCelebA:
    def pictures(self, root: Path) -> Path:
        return root / "celeba" / "img_align_celeba"

    def test_the_partition_makes_the_splits(self, fake_celeba: Path) -> None:
        module = loaded(data("CelebA", fake_celeba))
        assert sizes(module) == {"train": 12, "val": 4, "test": 6}
        x, y = module.arrays("test")
        assert y is None
        for i in range(6):
            path = self.pictures(fake_celeba) / f"{i + 17:06d}.jpg"
            assert torch.equal(x[i], read_picture(path, 16, 3))

    def test_five_bits(self, fake_celeba: Path) -> None:
        x, _ = loaded(data("CelebA", fake_celeba, grey_levels=32)).arrays("val")
        assert torch.equal(x, loaded(data("CelebA", fake_celeba)).arrays("val")[0] // 8)
        assert 16 < x.max() < 32

    def test_a_second_start_reads_no_picture(
        self, fake_celeba: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = loaded(data("CelebA", fake_celeba))
        assert len(kept(fake_celeba / "celeba")) == 3
        assert "stale" not in capsys.readouterr().err
        monkeypatch.setattr("glow.data.picture_files.read_picture", None)
        again = loaded(data("CelebA", fake_celeba))
        for split in ("train", "val", "test"):
            assert torch.equal(first.arrays(split)[0], again.arrays(split)[0])

    def test_it_is_read_without_being_kept(self, fake_celeba: Path) -> None:
        expected = loaded(data("CelebA", fake_celeba)).arrays("test")[0]
        for file in (fake_celeba / "celeba").glob(".glow*"):
            file.unlink()
        module = data("CelebA", fake_celeba, cache=None)
        module.setup("test")
        assert torch.equal(module.arrays("test")[0], expected)
        assert not list((fake_celeba / "celeba").glob(".glow*"))

    @pytest.mark.parametrize(
        "absent", ["celeba", "celeba/list_eval_partition.txt", "celeba/img_align_celeba"]
    )
    def test_absent_without_download(
        self, fake_celeba: Path, monkeypatch: pytest.MonkeyPatch, absent: str
    ) -> None:
        def limited(*args: object) -> None:
            raise RuntimeError("Too many users have viewed or downloaded this file recently.")

        monkeypatch.setattr("torchvision.datasets.celeba.download_file_from_google_drive", limited)
        (fake_celeba / absent).rename(fake_celeba / "elsewhere")
        with pytest.raises(
            UsageError,
            match=r"CelebA is not, or not whole, in dataset.root=.* \(Too many users .*\); unpack img_align_celeba.zip, so "
            r"that .*celeba/img_align_celeba holds the pictures, and put list_eval_partition.txt into .*celeba, or set",
        ):
            data("CelebA", fake_celeba).prepare_data()
        with pytest.raises(UsageError, match=r"CelebA is not, or not whole, in dataset.root=[^ ]*; unpack"):
            data("CelebA", fake_celeba).setup("test")

    def test_half_unpacked(self, fake_celeba: Path) -> None:
        for i in (7, 9):
            (self.pictures(fake_celeba) / f"{i:06d}.jpg").unlink()
        with pytest.raises(
            UsageError,
            match=r"dataset.root: 2 of the 12 pictures of the train split are not in .*, the first is 000007.jpg; unpack",
        ):
            data("CelebA", fake_celeba).prepare_data()
        assert kept(fake_celeba / "celeba") == []

    def test_a_damaged_picture(self, fake_celeba: Path) -> None:
        path = self.pictures(fake_celeba) / "000003.jpg"
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(UsageError, match=r"1 of 12 pictures in .*000003.jpg: .*dataset.skip_broken=true"):
            loaded(data("CelebA", fake_celeba))
        with pytest.warns(UserWarning, match="1 of 12 pictures .* left out"):
            module = loaded(data("CelebA", fake_celeba, skip_broken=True))
        assert sizes(module) == {"train": 11, "val": 4, "test": 6}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (
                "<!DOCTYPE html>\n<html>Quota exceeded</html>\n",
                "line 1 of .*partition.txt is '<!DOCTYPE html>' and not",
            ),
            (
                "000001.jpg 0\n000002.jpg 3\n",
                "line 2 of .* is '000002.jpg 3' and not a file name and 0, 1 or 2",
            ),
            ("000001.jpg 0\n000002.jp", "line 2 of .* is '000002.jp' and not"),
            ("../000001.jpg 0\n", "line 1 of .* is '../000001.jpg 0' and not a file name"),
            ("000001.jpg 0\n000002.jpg 1\n", "has no pictures of the test split; download it anew"),
            ("", "has no pictures of the train split; download it anew"),
        ],
        ids=["page", "number", "cut", "path", "split", "empty"],
    )
    def test_a_damaged_partition(self, fake_celeba: Path, content: str, message: str) -> None:
        (fake_celeba / "celeba" / "list_eval_partition.txt").write_text(content)
        with pytest.raises(UsageError, match=f"dataset.root: .*{message}"):
            data("CelebA", fake_celeba).prepare_data()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"image_size": 0}, "dataset.image_size must be an integer above zero, got 0"),
            ({"channels": 2}, r"dataset.channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
            ({"cache": 5}, "dataset.cache must be auto, a folder or null, got 5"),
            ({"kind": "CelebB"}, "dataset.kind='CelebB' is not one of CelebA"),
        ],
    )
    def test_bad_settings(self, tmp_path: Path, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            data("CelebA", tmp_path, **options)


Spoil = Callable[[Path], object]


def saved(**arrays: Any) -> Spoil:
    return lambda path: np.savez(path, **arrays)


X, Y = np.zeros((4, 3072), np.uint8), np.arange(1, 5)


class TestImageNet:
    def batch(self, root: Path, i: int = 1) -> Path:
        return root / "Imagenet32_train_npz" / f"train_data_batch_{i}.npz"

    @pytest.mark.parametrize("size", [32, 64])
    def test_both_sizes_side_by_side(self, fake_imagenet: Path, size: int) -> None:
        module = loaded(data(f"ImageNet{size}", fake_imagenet, classes=1000))
        assert sizes(module) == {"train": 32, "val": 8, "test": 10}
        x, y = module.arrays("test")
        there = np.load(fake_imagenet / f"Imagenet{size}_val_npz" / "val_data.npz")
        assert torch.equal(x[3], torch.from_numpy(there["data"][3]).view(3, size, size))
        assert y is not None
        assert (y[0], y[-1]) == (0, 999)
        assert torch.equal(y, torch.from_numpy(there["labels"]) - 1)

    def test_the_training_batches_in_their_order(self, fake_imagenet: Path) -> None:
        examples = data("ImageNet32", fake_imagenet).load("train")
        assert examples is not None
        tenth = np.load(self.batch(fake_imagenet, 10))["data"]
        assert torch.equal(examples.x[36:], torch.from_numpy(tenth).view(4, 3, 32, 32))
        assert examples.x.is_contiguous()

    def test_files_in_the_root_itself(self, fake_imagenet: Path, tmp_path: Path) -> None:
        (tmp_path / "flat").mkdir()
        for path in fake_imagenet.glob("Imagenet64*/*.npz"):
            path.rename(tmp_path / "flat" / path.name)
        assert sizes(loaded(data("ImageNet64", tmp_path / "flat")))["test"] == 10

    def test_splits_share_the_images(self, fake_imagenet: Path) -> None:
        module = loaded(data("ImageNet32", fake_imagenet, grey_levels=32))
        assert module.examples["train"].x.data_ptr() == module.examples["val"].x.data_ptr()
        assert module.arrays("val")[0].max() == 31

    def test_by_its_configuration(self, fake_imagenet: Path) -> None:
        config = {"_target_": "glow.data.DownsampledImageNet", "kind": "ImageNet32", "root": fake_imagenet}
        module = build_data(
            {**config, "name": "i", "shape": [3, 32, 32], "batch_size": 8, "val_size": 8}, seed=0
        )
        assert isinstance(module, DownsampledImageNet)

    def test_absent(self, tmp_path: Path) -> None:
        for root in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(
                UsageError,
                match=r"ImageNet64 is not whole in dataset.root=.*: 11 of 11 files are missing, the first is "
                "train_data_batch_1.npz; download the npz archives of 64x64 pixels .* from image-net.org and unpack",
            ):
                data("ImageNet64", root).prepare_data()

    def test_a_missing_batch_is_told_before_training(self, fake_imagenet: Path) -> None:
        (fake_imagenet / "Imagenet32_val_npz" / "val_data.npz").unlink()
        # That of 64x64 beside it is found in its place and refused when it is read.
        with pytest.raises(UsageError, match="has images of 64x64 pixels, not of 32x32; set dataset.root to"):
            data("ImageNet32", fake_imagenet).setup("test")
        (fake_imagenet / "Imagenet64_val_npz" / "val_data.npz").unlink()
        with pytest.raises(UsageError, match="1 of 11 files are missing, the first is val_data.npz"):
            data("ImageNet32", fake_imagenet).prepare_data()

    def test_pickled_batches_are_not_opened(self, tmp_path: Path) -> None:
        for name in [*(f"train_data_batch_{i}" for i in range(1, 11)), "val_data"]:
            (tmp_path / name).write_bytes(pickle.dumps({"data": X, "labels": Y.tolist()}))
        with pytest.raises(
            UsageError, match="pickled files, which can run code, are not read; download the npz"
        ):
            data("ImageNet32", tmp_path).prepare_data()

    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:1000]), "is damaged"),
            (lambda path: path.write_bytes(b""), "is damaged"),
            (lambda path: path.write_bytes(b"<html>404</html>"), "is damaged"),
            (lambda path: np.save(path.open("wb"), X), r"is damaged \(it is no npz file of arrays\)"),
            (saved(data=X), "is damaged .*labels"),
            (saved(labels=Y), "is damaged .*data"),
            (saved(data=X, labels=np.array([1, None])), "is damaged .*allow_pickle"),
            (saved(data=np.array([None]), labels=Y), "is damaged .*allow_pickle"),
            (saved(data=X, labels=Y - 1), r"its labels are not numbers from 1 to 1000\)"),
            (saved(data=X, labels=Y + 997), "its labels are not numbers from 1 to 1000"),
            (saved(data=X, labels=Y / 2), "its labels are not numbers from 1 to 1000"),
            (saved(data=X[:0], labels=Y[:0]), "its labels are not numbers from 1 to 1000"),
            (
                saved(data=X, labels=Y[:3]),
                r"its images are uint8 \(4, 3072\) and not uint8 \(3, 3072\) for its 3 labels",
            ),
            (saved(data=X[:, :5], labels=Y), r"its images are uint8 \(4, 5\) and not"),
            (saved(data=X / 2, labels=Y), r"its images are float64 \(4, 3072\) and not uint8"),
            (saved(data=X.reshape(4, 32, 32, 3), labels=Y), r"its images are uint8 \(4, 32, 32, 3\)"),
            (saved(data=np.zeros((4, 768), np.uint8), labels=Y), "has images of 16x16 pixels, not of 32x32"),
        ],
    )
    def test_a_bad_file(self, fake_imagenet: Path, spoil: Spoil, why: str) -> None:
        spoil(self.batch(fake_imagenet, 4))
        with pytest.raises(UsageError, match=rf"dataset.root: .*train_data_batch_4.npz .*{why}"):
            data("ImageNet32", fake_imagenet).setup("fit")

    def test_one_changed_byte(self, fake_imagenet: Path) -> None:
        path = self.batch(fake_imagenet)
        content = bytearray(path.read_bytes())
        content[len(content) // 4] ^= 1
        path.write_bytes(content)
        with pytest.raises(UsageError, match=r"train_data_batch_1.npz is damaged \(Bad CRC-32"):
            data("ImageNet32", fake_imagenet).setup("fit")

    def test_unknown_kind(self, tmp_path: Path) -> None:
        with pytest.raises(
            UsageError, match="dataset.kind='ImageNet48' is not one of ImageNet32, ImageNet64"
        ):
            data("ImageNet48", tmp_path)


def test_grey_levels_are_made_of_what_a_batch_takes(tmp_path: Path) -> None:
    """Not of the whole split at once, which may be larger than the memory."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for i in range(6):
        Image.new("RGB", (8, 8), (8 * i + 7, 0, 255)).save(folder / f"{i}.png")
    (folder.parent / "list_eval_partition.txt").write_text("".join(f"{i}.png {i % 3}\n" for i in range(6)))
    module = loaded(data("CelebA", tmp_path, grey_levels=32))
    examples = module.examples["train"]
    assert examples.x.max() == 255, "as they are kept"
    (x,) = examples[torch.tensor([1])]
    assert x[0, :, 0, 0].tolist() == [3, 0, 31]
    counts = module.grey_level_counts()
    assert counts is not None
    assert counts.sum(1).tolist() == [2 * 16 * 16] * 3
    assert counts[2, 31] == 2 * 16 * 16
