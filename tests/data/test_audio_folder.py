"""Any folder of WAV files."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from glow.data import AudioFolder
from glow.errors import UsageError
from glow.mu_law import sound

RATE = 8000


def write(path: Path, x: np.ndarray, rate: int = RATE, kind: type = np.int16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    full = {np.uint8: 127, np.int16: 32767, np.int32: 2**31 - 1}.get(kind, 1)  # type: ignore[call-overload]
    wavfile.write(path, rate, (x * full + (128 if kind is np.uint8 else 0)).astype(kind))
    return path


def tone(hertz: float = 440, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate) * 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(10):
        write(tmp_path / "sounds" / ("a" if i % 2 else "b") / f"{i}.WAV", tone(200 + 100 * i))
    return tmp_path / "sounds"


def loaded(root: Path, **options: object) -> AudioFolder:
    length = options.get("length", 1000)
    common = {"name": "sounds", "shape": [1, length], "batch_size": 4, "grey_levels": 256, "val_size": 2}
    data = AudioFolder(
        **{"root": root, "sample_rate": RATE, "length": length, "test_size": 3, **common, **options}
    )  # type: ignore[arg-type]
    data.setup("fit")
    data.setup("test")
    return data


def test_whole_files_are_held_out_and_cut(folder: Path) -> None:
    data = loaded(folder, length=1500)
    assert {split: len(e) for split, e in data.examples.items()} == {"train": 10, "val": 4, "test": 6}
    assert sorted(f for files in data.files.values() for f in files) == sorted(folder.rglob("*.WAV"))
    again, other = loaded(folder, length=1500), loaded(folder, length=1500, seed=1)
    assert again.files == data.files != other.files


def test_folders_of_splits(folder: Path) -> None:
    (folder / "a").rename(folder / "train")
    (folder / "b").rename(folder / "test")
    data = loaded(folder, val_size=1)
    assert {split: len(files) for split, files in data.files.items()} == {"train": 4, "val": 1, "test": 5}
    (folder / "train").rename(folder / "val")
    with pytest.raises(UsageError, match="no train"):
        loaded(folder)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_every_depth_is_the_same_sound(tmp_path: Path, kind: type) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.wav", tone(), kind=kind)
    x = loaded(tmp_path, length=4000, test_size=1, val_size=1).arrays("train")[0]
    assert x.shape == (1, 1, 4000)
    np.testing.assert_allclose(sound(x, 256)[0, 0], tone(), atol=0.025)


def test_stereo_and_other_rates_are_mixed_down_and_resampled(tmp_path: Path) -> None:
    fast = tone(rate=44_100)
    for i in range(3):
        write(tmp_path / f"{i}.wav", np.stack((1.5 * fast, 0.5 * fast), axis=1), rate=44_100)
    x = sound(loaded(tmp_path, length=4000, test_size=1, val_size=1).arrays("train")[0], 256)[0, 0]
    np.testing.assert_allclose(x[100:-100], tone()[100:-100], atol=0.025)


def test_silence_and_fewer_levels(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.wav", np.zeros(3000))
        write(tmp_path / f"{i}-empty.wav", np.zeros(0))
    x = loaded(tmp_path, test_size=3, val_size=1, grey_levels=16).arrays("train")[0]
    assert (x == 8).all()


def test_a_checkpoint_knows_its_files(folder: Path) -> None:
    state = loaded(folder).state_dict()
    loaded(folder).load_state_dict(state)
    write(folder / "more.wav", tone())
    with pytest.raises(UsageError, match="not those that this run started with"):
        loaded(folder).load_state_dict(state)


def test_what_is_wrong_is_told(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset.length=9000: none of the 5 files of the train split"):
        loaded(folder, length=9000)
    with pytest.raises(UsageError, match="dataset.test_size=20 takes 20 of 10"):
        loaded(folder, test_size=20)
    for name, value in {"sample_rate": 0, "length": 1.5, "test_size": 0}.items():
        with pytest.raises(UsageError, match=f"dataset.{name}"):
            loaded(folder, **{name: value})
    with pytest.raises(UsageError, match="is not a folder"):
        loaded(folder / "none")
    broken = write(folder / "a/1.WAV", np.full(3000, np.nan), kind=np.float32)
    with pytest.raises(UsageError, match=r"1.WAV has values, or a rate, that are no numbers"):
        loaded(folder)
    broken.write_bytes(b"RIFF")
    with pytest.raises(UsageError, match=r"1.WAV cannot be read as a WAV file"):
        loaded(folder)
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="no WAV files below"):
        loaded(folder / "empty")
