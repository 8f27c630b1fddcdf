"""The decoded pictures are kept, and read again only when they have to be."""

import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from glow.data import picture_files as module
from glow.errors import UsageError

from .pictures import count, folder, kept, loaded


class TestCache:
    def refuse(self, *args: object) -> torch.Tensor:
        raise AssertionError("it is in the cache and must not be read")

    @pytest.mark.parametrize("levels", [256, 32])
    def test_a_second_start_reads_no_picture(
        self, picture_folder: Path, monkeypatch: pytest.MonkeyPatch, levels: int
    ) -> None:
        without = loaded(folder(picture_folder, cache=None, grey_levels=levels))
        assert kept(picture_folder) == []
        first = loaded(folder(picture_folder, grey_levels=levels))
        monkeypatch.setattr(module, "read_picture", self.refuse)
        second = loaded(folder(picture_folder, grey_levels=levels))
        for split in without.examples:
            x, y = without.arrays(split)
            for other in (first, second):
                assert torch.equal(other.arrays(split)[0], x)
                assert torch.equal(other.arrays(split)[1], y)  # type: ignore[arg-type]

    def test_splits_do_not_copy_what_is_mapped(self, picture_folder: Path) -> None:
        data = loaded(folder(picture_folder))
        assert len({e.x.data_ptr() for e in data.examples.values()}) == 1
        batch = data.examples["val"][torch.arange(2)]
        assert torch.equal(batch[0], data.arrays("val")[0][:2])

    def test_every_size_and_split_folder_has_its_own(self, picture_folder: Path) -> None:
        root = picture_folder.parent / "splits"
        for split in ("train", "test"):
            shutil.copytree(picture_folder, root / split)
        for size in (8, 10, 8):
            loaded(folder(root, image_size=size, shape=[3, size, size]))
        loaded(folder(root, channels=1, shape=[1, 8, 8]))
        assert len(kept(root)) == 6
        assert len([p for p in root.iterdir() if p.is_dir()]) == 2, "other programs take folders for classes"

    def test_another_folder(self, picture_folder: Path, tmp_path: Path) -> None:
        loaded(folder(picture_folder, cache=str(tmp_path / "kept" / "here")))
        assert kept(picture_folder) == []
        [own] = (tmp_path / "kept" / "here").glob("pictures-*")
        [file] = kept(own)
        assert (own / file).stat().st_size == 128 + 40 * 3 * 8 * 8, "a header and the pictures"

    def test_a_root_that_cannot_be_written(
        self, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.access", lambda path, mode: False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded(folder(picture_folder))
        assert kept(picture_folder) == []
        [own] = (tmp_path / "home" / "glow").glob("pictures-*")
        assert len(kept(own)) == 1

    @pytest.mark.parametrize("what", ["file", "full"])
    def test_nowhere_to_write_is_one_warning(
        self,
        picture_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        what: str,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        (tmp_path / "file").write_bytes(b"")
        if what == "full":
            monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
        data = loaded(folder(picture_folder, cache=str(tmp_path / "file") if what == "file" else "auto"))
        assert count(data) == 40
        [warning] = [str(w.message) for w in recwarn if "dataset.cache" in str(w.message)]
        assert "the decoded pictures cannot be kept" in warning
        assert "set dataset.cache to a folder that can be written, or to null" in warning

    @pytest.mark.parametrize("cache", [5, "", True])
    def test_bad_settings(self, picture_folder: Path, cache: object) -> None:
        with pytest.raises(UsageError, match="dataset.cache must be auto, a folder or null, got"):
            folder(picture_folder, cache=cache)
