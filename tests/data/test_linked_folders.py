"""Folders of pictures with symbolic links: every folder is read once, and links that loop are no classes."""

import os
import shutil
from pathlib import Path

import pytest

from glow.data import ImageFolder
from glow.data.picture_files import pictures_below
from glow.errors import UsageError

from .pictures import count, folder, loaded


def classes(data: ImageFolder) -> dict[str, int]:
    """The number of pictures of each class."""
    [found] = [data._labels(f) for f in data.folders]
    assert found is not None
    return dict(zip(data.class_index, found.bincount(minlength=len(data.class_index)).tolist(), strict=True))


def loop(directory: Path) -> None:
    (directory / "up").symlink_to("..")
    (directory / "self").symlink_to(".")


def test_loops_beside_and_in_the_classes(picture_folder: Path) -> None:
    shutil.copytree(picture_folder / "cat", picture_folder.parent / "not_below" / "cat")
    before = pictures_below(picture_folder)
    for directory in (picture_folder, picture_folder / "cat", picture_folder / "dog"):
        loop(directory)
    assert pictures_below(picture_folder) == before
    data = folder(picture_folder)
    assert classes(data) == {"cat": 20, "dog": 20}
    assert count(loaded(data)) == 40


def test_loops_without_classes(picture_folder: Path) -> None:
    loop(picture_folder / "cat")
    data = folder(picture_folder / "cat")
    assert data.class_index == {}
    assert count(loaded(data)) == 20


def test_loops_in_splits(picture_folder: Path) -> None:
    root = picture_folder.parent / "splits"
    for split in ("train", "test"):
        shutil.copytree(picture_folder, root / split)
        loop(root / split)
        loop(root / split / "dog")
    loop(root)
    data = loaded(folder(root, val_size=0.1))
    assert {split: len(e) for split, e in data.examples.items()} == {"train": 36, "val": 4, "test": 40}
    assert list(data.class_index) == ["cat", "dog"]


def test_a_link_to_itself_and_two_to_one_another(picture_folder: Path) -> None:
    (picture_folder / "cat" / "knot").symlink_to("knot")
    (picture_folder / "cat" / "knot.png").symlink_to("knot.png")
    (picture_folder / "cat" / "dogs").symlink_to("../dog")
    (picture_folder / "dog" / "cats").symlink_to("../cat")
    with pytest.raises(UsageError, match="knot.png cannot be opened"):
        loaded(folder(picture_folder))
    (picture_folder / "cat" / "knot.png").unlink()
    assert classes(folder(picture_folder)) == {"cat": 20, "dog": 20}


@pytest.mark.parametrize("relative", [True, False])
def test_a_root_that_is_a_link(picture_folder: Path, monkeypatch: pytest.MonkeyPatch, relative: bool) -> None:
    link = picture_folder.parent / "link"
    link.symlink_to(picture_folder)
    loop(picture_folder)
    (picture_folder / "again").symlink_to(link)
    monkeypatch.chdir(picture_folder)
    assert classes(folder(Path(".") if relative else link)) == {"cat": 20, "dog": 20}


def test_a_folder_outside(picture_folder: Path) -> None:
    outside = picture_folder.parent / "outside"
    shutil.copytree(picture_folder / "dog", outside / "owl" / "deep")
    loop(outside / "owl")
    (picture_folder / "owl").symlink_to(outside / "owl")
    assert classes(folder(picture_folder)) == {"cat": 20, "dog": 20, "owl": 20}
    assert [p for p in pictures_below(picture_folder) if "owl" in str(p)] == sorted(
        picture_folder / "owl" / "deep" / f"{i}.png" for i in range(20)
    )


def test_a_folder_outside_that_holds_another_of_the_classes(picture_folder: Path) -> None:
    """Pictures that two links lead to have the path that is shorter."""
    outside = picture_folder.parent / "outside"
    shutil.copytree(picture_folder / "dog", outside / "owl")
    shutil.copytree(picture_folder / "dog", outside / "emu")
    (picture_folder / "birds").symlink_to(outside)
    (picture_folder / "owl").symlink_to(outside / "owl")
    assert classes(folder(picture_folder)) == {"birds": 20, "cat": 20, "dog": 20, "owl": 20}


@pytest.mark.parametrize("name", ["alias", "kitten"])
def test_a_link_to_the_folder_of_another_class_is_none(picture_folder: Path, name: str) -> None:
    """Whichever comes first in the alphabet."""
    (picture_folder / name).symlink_to("cat")
    assert classes(folder(picture_folder)) == {"cat": 20, "dog": 20}


def test_a_class_folder_of_test_may_be_a_link_into_training(picture_folder: Path) -> None:
    root = picture_folder.parent / "splits"
    shutil.copytree(picture_folder, root / "train")
    (root / "test").mkdir()
    (root / "test" / "dog").symlink_to("../train/dog")
    assert loaded(folder(root)).arrays("test")[1].tolist() == [1] * 20  # type: ignore[union-attr]


def test_a_split_may_be_a_link_to_another(picture_folder: Path) -> None:
    root = picture_folder.parent / "splits"
    for split in ("train", "test"):
        shutil.copytree(picture_folder, root / split)
    (root / "val").symlink_to("test")
    data = loaded(folder(root))
    assert {split: len(e) for split, e in data.examples.items()} == {"train": 40, "val": 40, "test": 40}


def test_the_order_is_that_of_the_paths(picture_folder: Path) -> None:
    (picture_folder / "bird").symlink_to(picture_folder / "dog")
    found = pictures_below(picture_folder)
    assert found == sorted(found)
    assert {os.path.basename(p.parent) for p in found} == {"cat", "dog"}
