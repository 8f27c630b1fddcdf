"""What the datasets hold, and what they say when they cannot."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glow.data import Digits, ImageFolder, TorchvisionData, Toy
from glow.data.augment import random_shift
from glow.data.picture_files import read_picture
from glow.errors import UsageError

DIGITS = {"name": "digits", "shape": [1, 8, 8], "batch_size": 64}


def loaded(data):
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    return data


class TestSplits:
    def test_digits(self) -> None:
        data = loaded(Digits(**DIGITS, grey_levels=17, classes=10))
        sizes = {split: len(e) for split, e in data.examples.items()}
        assert sizes == {"train": 1293, "val": 144, "test": 360}
        x, y = data.arrays("train")
        assert x.dtype == torch.uint8
        assert (x.min(), x.max()) == (0, 16)
        assert set(y.tolist()) == set(range(10))

    def test_validation_is_held_out_by_the_seed_and_the_test_split_is_not_touched(self) -> None:
        first, again, other = (loaded(Digits(**DIGITS, seed=s)) for s in (0, 0, 1))
        assert torch.equal(first.arrays("val")[0], again.arrays("val")[0])
        assert not torch.equal(first.arrays("val")[0], other.arrays("val")[0])
        assert torch.equal(first.arrays("test")[0], other.arrays("test")[0])
        together = torch.cat((first.arrays("train")[0], first.arrays("val")[0]))
        assert len(together) == 1437

    def test_fit_does_not_load_the_test_split(self) -> None:
        data = Digits(**DIGITS)
        data.setup("fit")
        assert set(data.examples) == {"train", "val"}

    def test_grey_levels_are_counted_over_the_training_images_alone(self) -> None:
        data = loaded(Digits(**DIGITS, grey_levels=17))
        x, _ = data.arrays("train")
        counts = data.grey_level_counts()
        assert counts is not None
        assert counts.tolist() == [[int((x == v).sum()) for v in range(17)]]

    def test_of_many_images_the_seed_chooses_which_are_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Digits, "COUNTED", 100)
        first, again = (loaded(Digits(**DIGITS, grey_levels=17)).grey_level_counts() for _ in range(2))
        assert first is not None
        assert again is not None
        assert torch.equal(first, again)
        assert int(first.sum()) == 100 * 64

    def test_vectors_have_no_grey_levels(self) -> None:
        toy = Toy(
            kind="two_moons",
            noise=0.1,
            name="two_moons",
            shape=(2,),
            batch_size=8,
            train_size=50,
            val_size=5,
            test_size=5,
        )
        assert loaded(toy).grey_level_counts() is None

    def test_the_initialization_batch_is_always_the_same(self) -> None:
        first, again = (loaded(Digits(**DIGITS)).initialization_batch(32)[0] for _ in range(2))
        assert torch.equal(first, again)
        assert len(loaded(Digits(**DIGITS)).initialization_batch(10**6)[0]) == 1293

    @pytest.mark.parametrize("val_size", [5000, 0.0001])
    def test_a_validation_split_that_leaves_nothing(self, val_size: float) -> None:
        with pytest.raises(UsageError, match=r"dataset.val_size=.* both need at least one"):
            Digits(**DIGITS, val_size=val_size).setup("fit")

    def test_fewer_images_than_a_batch(self) -> None:
        data = loaded(Digits(**{**DIGITS, "batch_size": 5000}))
        [(x, y)] = list(data.test_dataloader())
        assert len(x) == len(y) == 360

    def test_grey_levels_are_floor_of_value_over_2_to_the_8_minus_n(self, fake_mnist: Path) -> None:
        def load(levels: int) -> torch.Tensor:
            common = {"name": "mnist", "shape": [1, 28, 28], "batch_size": 8, "grey_levels": levels}
            return loaded(TorchvisionData(kind="MNIST", root=str(fake_mnist), **common)).arrays("test")[0]

        assert torch.equal(load(32), load(256) // 8)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"grey_levels": 18}, "dataset.grey_levels must be from 2 to 17, got 18"),
            ({"batch_size": 0}, "dataset.batch_size must be an integer above zero, got 0"),
            ({"batch_size": "many"}, "dataset.batch_size must be an integer above zero, got 'many'"),
            ({"shape": [1, 9, 9]}, r"shape \(1, 8, 8\), but dataset.shape=\[1, 9, 9\]"),
            ({"classes": 5}, "labels up to 9, but dataset.classes=5"),
        ],
    )
    def test_bad_settings(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            Digits(**{**DIGITS, **options}).setup("fit")  # type: ignore[arg-type]


class TestTorchvision:
    def test_cifar_is_channels_first(self, fake_cifar: Path) -> None:
        common = {"name": "cifar10", "shape": [3, 32, 32], "batch_size": 8, "classes": 10}
        data = loaded(TorchvisionData(kind="CIFAR10", root=str(fake_cifar), **common))
        x, y = data.arrays("test")
        assert x.shape == (20, 3, 32, 32)
        assert y.tolist() == [i % 10 for i in range(20)]

    def test_absent_without_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_network(*args: object, **kwargs: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
        common = {"name": "mnist", "shape": [1, 28, 28], "batch_size": 8}
        data = TorchvisionData(kind="MNIST", root=str(tmp_path / "nothing"), **common)
        with pytest.raises(
            UsageError, match="MNIST is not, or not whole, in dataset.root=.*could not be downloaded"
        ):
            data.prepare_data()

    def test_damaged(self, fake_mnist: Path) -> None:
        (fake_mnist / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"")
        data = TorchvisionData(kind="MNIST", root=str(fake_mnist), name="m", shape=[1, 28, 28], batch_size=8)
        with pytest.raises(
            UsageError, match="the files of MNIST in dataset.root=.* are damaged.*remove them"
        ):
            data.prepare_data()

    def test_unknown_kind(self) -> None:
        with pytest.raises(UsageError, match="dataset.kind='MNITS' is not one of .* did you mean 'MNIST'"):
            TorchvisionData(kind="MNITS", root="x", name="x", shape=[1], batch_size=1)


class TestImageFolder:
    def folder(self, root: Path, **options: object) -> ImageFolder:
        common = {"name": "folder", "shape": [3, 8, 8], "batch_size": 4, "image_size": 8}
        return ImageFolder(root=str(root), **{**common, **options})  # type: ignore[arg-type]

    def test_classes_and_a_held_out_test_split(self, picture_folder: Path) -> None:
        data = loaded(self.folder(picture_folder, test_size=10, val_size=5))
        sizes = {split: len(e) for split, e in data.examples.items()}
        assert sizes == {"train": 25, "val": 5, "test": 10}
        labels = torch.cat([data.arrays(split)[1] for split in data.examples])
        assert labels.bincount().tolist() == [20, 20]

    def test_split_folders(self, picture_folder: Path) -> None:
        for split in ("train", "test"):
            shutil.copytree(picture_folder, picture_folder.parent / "splits" / split)
        data = loaded(self.folder(picture_folder.parent / "splits", val_size=0.1))
        assert {split: len(e) for split, e in data.examples.items()} == {"train": 36, "val": 4, "test": 40}

    def test_split_folders_with_their_own_validation(self, picture_folder: Path) -> None:
        for split in ("train", "val"):
            shutil.copytree(picture_folder, picture_folder.parent / "splits" / split)
        data = loaded(self.folder(picture_folder.parent / "splits", test_size=0.25))
        assert {split: len(e) for split, e in data.examples.items()} == {"train": 30, "val": 40, "test": 10}

    def test_classes_are_those_of_the_training_pictures(self, picture_folder: Path) -> None:
        root = picture_folder.parent / "splits"
        shutil.copytree(picture_folder, root / "train")
        shutil.copytree(picture_folder / "dog", root / "test" / "dog")
        assert loaded(self.folder(root)).arrays("test")[1].unique().tolist() == [1]
        shutil.copytree(picture_folder / "dog", root / "test" / "yak")
        with pytest.raises(UsageError, match="has the class yak, which the training pictures lack"):
            loaded(self.folder(root))

    @pytest.mark.parametrize("names", [["train", "cat"], ["test", "val"]])
    def test_ambiguous_folders(self, tmp_path: Path, names: list[str]) -> None:
        for name in names:
            (tmp_path / name).mkdir()
        with pytest.raises(UsageError, match="either the splits train, val and test.*or classes"):
            self.folder(tmp_path)

    def test_an_empty_test_folder_is_told_at_the_start(self, picture_folder: Path) -> None:
        root = picture_folder.parent / "splits"
        shutil.copytree(picture_folder, root / "train")
        (root / "test").mkdir()
        with pytest.raises(UsageError, match="no pictures below .*test"):
            self.folder(root).setup("fit")

    def test_linked_classes(self, picture_folder: Path) -> None:
        (picture_folder.parent / "links").mkdir()
        (picture_folder.parent / "links" / "cat").symlink_to(picture_folder / "cat")
        data = loaded(self.folder(picture_folder.parent / "links"))
        assert sum(map(len, data.examples.values())) == 20

    def test_no_classes(self, picture_folder: Path) -> None:
        assert loaded(self.folder(picture_folder / "cat")).arrays("train")[1] is None

    def test_grey(self, picture_folder: Path) -> None:
        data = loaded(self.folder(picture_folder, channels=1, shape=[1, 8, 8]))
        assert data.arrays("train")[0].shape[1:] == (1, 8, 8)

    def test_a_broken_picture_is_named_or_left_out(self, picture_folder: Path) -> None:
        good = (picture_folder / "cat" / "0.png").read_bytes()
        (picture_folder / "cat" / "0.png").write_bytes(good[: len(good) // 2])
        (picture_folder / "dog" / "3.png").write_bytes(b"")
        with pytest.raises(
            UsageError, match=r"of .* cannot be read, the first is .*\.png.*dataset.skip_broken=true"
        ):
            loaded(self.folder(picture_folder))
        with pytest.warns(UserWarning, match="2 of 40 pictures in .* left out"):
            data = loaded(self.folder(picture_folder, skip_broken=True))
        assert sum(map(len, data.examples.values())) == 38

    def test_no_pictures(self, tmp_path: Path) -> None:
        (tmp_path / "readme.txt").write_text("no pictures here")
        with pytest.raises(UsageError, match="dataset.root: no pictures below"):
            self.folder(tmp_path).setup("fit")

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is not a folder"):
            self.folder(tmp_path / "nowhere")

    def test_channels(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"dataset.channels must be 1 \(grey\) or 3 \(RGB\), got 2"):
            self.folder(tmp_path, channels=2)


class TestReadPicture:
    def test_every_mode(self, tmp_path: Path) -> None:
        """A picture that is red to the left and grey to the right, in every mode that has a file format."""
        rgb = np.zeros((8, 8, 3), np.uint8)
        rgb[:, :4, 0], rgb[:, 4:] = 255, 128
        image = Image.fromarray(rgb)
        for mode, suffix in [
            ("RGB", "png"),
            ("P", "png"),
            ("L", "png"),
            ("1", "png"),
            ("CMYK", "tiff"),
            ("RGBA", "png"),
            ("LA", "png"),
        ]:
            path = tmp_path / f"{mode}.{suffix}"
            image.convert(mode).save(path)
            for channels in (1, 3):
                x = read_picture(path, 8, channels)
                assert x.shape == (channels, 8, 8)
                assert x.dtype == torch.uint8
            red, grey = read_picture(path, 8, 3)[:, 0, 0].int(), read_picture(path, 8, 3)[:, 0, 7].int()
            if mode not in ("L", "LA", "1"):
                assert (red - torch.tensor([255, 0, 0])).abs().max() <= 3, mode
            if mode not in ("1", "P"):  # a palette of web colours has no such grey
                assert (grey - 128).abs().max() <= 3, mode
        assert torch.equal(read_picture(tmp_path / "RGB.png", 8, 3).permute(1, 2, 0), torch.from_numpy(rgb))

    def test_transparent_pixels_become_white(self, tmp_path: Path) -> None:
        Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
        assert (read_picture(tmp_path / "clear.png", 4, 3) == 255).all()

    def test_sixteen_bits_keep_their_range(self, tmp_path: Path) -> None:
        values = np.array([[0, 257], [32896, 65535]], np.uint16)
        Image.fromarray(values).save(tmp_path / "deep.png")
        assert read_picture(tmp_path / "deep.png", 2, 1).flatten().tolist() == [0, 1, 128, 255]

    def test_it_crops_the_centre(self, tmp_path: Path) -> None:
        wide = np.zeros((4, 12, 3), np.uint8)
        wide[:, 4:8] = 200
        Image.fromarray(wide).save(tmp_path / "wide.png")
        assert (read_picture(tmp_path / "wide.png", 4, 3) == 200).all()


class TestToy:
    def test_splits_differ_and_repeat(self) -> None:
        def make() -> Toy:
            sizes = {"train_size": 100, "val_size": 20, "test_size": 50}
            return loaded(Toy(kind="two_moons", noise=0.05, name="m", shape=[2], batch_size=10, **sizes))

        first, again = make(), make()
        assert {split: tuple(first.arrays(split)[0].shape) for split in first.examples} == {
            "train": (100, 2),
            "val": (20, 2),
            "test": (50, 2),
        }
        assert torch.equal(first.arrays("train")[0], again.arrays("train")[0])
        assert not torch.equal(first.arrays("train")[0][:20], first.arrays("val")[0])

    def test_eight_gaussians_have_eight_modes(self) -> None:
        data = Toy(
            kind="eight_gaussians",
            noise=0.01,
            name="m",
            shape=[2],
            batch_size=10,
            train_size=800,
            val_size=8,
            test_size=8,
        )
        data.setup("fit")
        x = data.arrays("train")[0]
        angles = (torch.atan2(x[:, 1], x[:, 0]) / (torch.pi / 4)).round() % 8
        assert len(angles.unique()) == 8
        torch.testing.assert_close(x.norm(dim=1), torch.full((800,), 2.0), atol=0.1, rtol=0)

    def test_unknown(self) -> None:
        with pytest.raises(UsageError, match="did you mean 'two_moons'"):
            Toy(kind="twomoons", noise=0, name="m", shape=[2], batch_size=1, train_size=1, test_size=1)


class TestShift:
    def test_it_moves_whole_pixels_and_repeats_the_edge(self) -> None:
        x = torch.arange(100).view(1, 1, 10, 10).repeat(3, 1, 1, 1)
        offsets = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.5, 0.999]])
        shifted = random_shift(x, 0.1, offsets)
        assert torch.equal(shifted[0], x[0])
        assert torch.equal(shifted[1, 0, 1:], x[1, 0, :-1])
        assert torch.equal(shifted[1, 0, 0], x[1, 0, 0])
        assert torch.equal(shifted[2, 0, :, :-1], x[2, 0, :, 1:])

    def test_its_reach(self) -> None:
        x = torch.arange(32).view(1, 1, 1, 32).repeat(500, 3, 4, 1)
        moved = random_shift(x, 0.1, torch.rand(500, 2))[:, 0, 0, 10] - 10
        assert set(moved.tolist()) == {-3, -2, -1, 0, 1, 2, 3}
