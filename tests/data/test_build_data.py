"""A configuration builds classes of our table, and those that the caller names."""

from pathlib import Path

import lightning as L
import pytest

from glow.data import DATASETS, ArrayData, Digits, build_data
from glow.errors import UsageError

DIGITS = {"name": "d", "shape": [1, 8, 8], "batch_size": 8}


class Mine(L.LightningDataModule):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class MineWithSeed(Digits):
    pass


def test_ours() -> None:
    data = build_data({"_target_": "glow.data.Digits", **DIGITS, "seed": 5}, seed=3)
    assert type(data) is Digits
    assert data.seed == 3


@pytest.mark.parametrize("target", ["pkg.Mine", "os.system", "glow.data.ArrayData", None])
def test_a_class_that_nobody_named_is_refused(target: str | None) -> None:
    with pytest.raises(UsageError, match="dataset._target_=.* is not one of glow.data.Digits"):
        build_data({"_target_": target, "size": 3}, seed=0)


def test_a_class_that_the_caller_names() -> None:
    data = build_data({"_target_": "pkg.Mine", "size": 3}, 0, classes={"pkg.Mine": Mine})
    assert isinstance(data, Mine)
    assert data.size == 3
    other: ArrayData = build_data({"_target_": "p.M", **DIGITS}, 4, classes={"p.M": MineWithSeed})
    assert isinstance(other, MineWithSeed)
    assert other.seed == 4
    assert "p.M" not in DATASETS


def test_a_root_may_be_a_path(picture_folder: Path) -> None:
    config = {"_target_": "glow.data.ImageFolder", "root": picture_folder, "image_size": 8, "name": "f"}
    data = build_data({**config, "shape": [3, 8, 8], "batch_size": 4}, seed=0)
    data.setup("fit")
    assert len(data.arrays("train")[0]) == 32
