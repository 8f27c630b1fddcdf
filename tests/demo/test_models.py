"""Which models are on the page, and by which names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from glow.commands.main import compose
from glow.demo.models import MOST_MODELS, Models
from glow.errors import UsageError
from glow.weights import shipped


@pytest.fixture
def outputs(tmp_path: Path, tiny_run: Path) -> Path:
    """Two runs, one of them deeper, and a folder that is none."""
    for name in ("one", "deeper/two"):
        shutil.copytree(tiny_run, tmp_path / "outputs" / name)
    (tmp_path / "outputs/three").mkdir()
    return tmp_path / "outputs"


def test_names(outputs: Path) -> None:
    models = Models(compose("demo", [f"output_dir={outputs}"]))
    assert list(models.paths()) == [*shipped(), "runs/deeper/two", "runs/one"]
    assert {m["kind"] for m in models.list()} == {"images"}
    assert models.paths()["runs/one"].name == "best.ckpt"


def test_the_file_of_the_command_line(outputs: Path, tmp_path: Path, tiny_run: Path) -> None:
    shutil.copy(tiny_run / "checkpoints/best.ckpt", tmp_path / "mine.ckpt")
    models = Models(compose("demo", [f"output_dir={outputs}", f"ckpt={tmp_path}/mine.ckpt"]))
    assert models.first == "file/mine"
    assert models.describe("file/mine")["shape"] == [1, 8, 8]
    assert Models(compose("demo", [f"output_dir={outputs}", f"ckpt={outputs}/one"])).first == "runs/one"
    assert Models(compose("demo", [f"output_dir={outputs}", "ckpt=mnist"])).first == "mnist"
    with pytest.raises(UsageError, match="is not there"):
        Models(compose("demo", [f"output_dir={outputs}", f"ckpt={tmp_path}/other.ckpt"]))


@pytest.mark.parametrize("name", ["runs/three", "runs/../outputs/one", "one", "/etc/passwd", "", "runs/"])
def test_other_names_are_refused(outputs: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is not one of"):
        Models(compose("demo", [f"output_dir={outputs}"])).open(name)


def test_a_model_is_read_again_when_its_file_changed(outputs: Path) -> None:
    models = Models(compose("demo", [f"output_dir={outputs}"]))
    before = models.open("runs/one")
    assert models.open("runs/one") is before
    (outputs / "one/checkpoints/best.ckpt").touch()
    assert models.open("runs/one") is not before
    for name in models.paths():
        models.open(name)
    assert len(models._opened) <= MOST_MODELS
