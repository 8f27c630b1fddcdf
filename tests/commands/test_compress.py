"""`python compress.py`: pictures to a file and back."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glow.codec import lanes
from glow.commands import originals
from glow.commands.compress import compress
from glow.commands.main import compose
from glow.errors import UsageError
from glow.evaluation.pictures import to_bytes

from .test_command_line import shell
from .test_readme_commands import PAGES, page_commands


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    return lambda *overrides: compress(compose("compress", [f"output_dir={tmp_path}/outputs", *overrides]))


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {
        p.relative_to(folder).as_posix(): np.array(Image.open(p))
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Pictures of the size and the 17 greys of ``tiny_run``'s model."""
    folder, greys = tmp_path / "digits", to_bytes(torch.arange(17), 17).numpy()
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(6):
        picture = Image.fromarray(greys[rng.integers(0, 17, (8, 8))])
        picture.save(folder / ("more" if i % 2 else ".") / f"{i}.{'gif' if i == 3 else 'png'}", "png")
    return folder


def test_a_folder_comes_back(
    call: Any, tiny_run: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = call(f"ckpt={tiny_run}", f"images={digits}", "out=some/where.glow")
    assert report["images"] == 6
    assert report["bytes"] == Path("some/where.glow").stat().st_size
    assert report["bits_per_dim"] == pytest.approx(8 * report["bytes"] / (6 * 64))
    assert [p.name for p in Path("some").iterdir()] == ["where.glow"]
    call(f"ckpt={tiny_run}", "decode=some/where.glow", "out=back")
    found, expected = pictures(Path("back")), pictures(digits)
    assert sorted(found) == ["0.png", "2.png", "4.png", "more/1.png", "more/3.gif.png", "more/5.png"]
    for name, picture in expected.items():
        kept = found[name if name in found else f"{name}.png"]
        assert np.array_equal(kept, picture if picture.ndim == 2 else picture[..., 0])
    said = capsys.readouterr().out
    assert "6 images" in said
    assert "decoded and compared" in said


def test_a_dataset_and_its_labels(call: Any, labelled_run: Path) -> None:
    for name, labels in (("all", "all"), ("none", "none"), ("some", "[0,3]")):
        report = call(
            f"ckpt={labelled_run}", "limit=20", f"labels={labels}", "verify=false", f"out={name}.glow"
        )
        assert report["images"] == 20
    call(f"ckpt={labelled_run}", "decode=all.glow")
    assert sorted(pictures(Path("all")))[:2] == ["000000.png", "000001.png"]
    named = call(f"ckpt={labelled_run}", "images=digits", "split=val", "limit=5")
    assert named["out"] == "pictures.glow"


def test_shipped_weights_are_found(call: Any, fake_mnist: Path) -> None:
    call("ckpt=mnist", f"dataset.root={fake_mnist}", "dataset.val_size=4", "limit=3", "labels=none")
    report = call("decode=pictures.glow", "out=back")
    assert report["images"] == 3
    with pytest.raises(UsageError, match=r"out=back is there and not an empty folder"):
        call("decode=pictures.glow", "out=back")
    with pytest.raises(
        UsageError, match=r"decode=pictures.glow was made by another model than ckpt=fashion_mnist"
    ):
        call("decode=pictures.glow", "out=more", "ckpt=fashion_mnist")


def test_a_file_of_another_s_model(call: Any, tiny_run: Path) -> None:
    call(f"ckpt={tiny_run}", "limit=3")
    with pytest.raises(
        UsageError, match=r"not made by the weights that come with the project \(fashion_mnist, mnist\)"
    ):
        call("decode=pictures.glow", "out=back")


def test_damage_leaves_what_is_before_it(call: Any, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "BLOCK", 8)
    call(f"ckpt={tiny_run}", "limit=20")
    data = Path("pictures.glow").read_bytes()
    Path("cut.glow").write_bytes(data[:-5])
    with pytest.raises(
        UsageError,
        match=r"decode=cut.glow: the file ends before block 3 of 3 .*; the 16 pictures before are in cut",
    ):
        call(f"ckpt={tiny_run}", "decode=cut.glow")
    assert len(list(Path("cut").iterdir())) == 16
    Path("not.glow").write_bytes(b"GIF89a")
    with pytest.raises(UsageError, match=r"decode=not.glow: this is not a file of images"):
        call("decode=not.glow")
    with pytest.raises(UsageError, match="decode=nowhere.glow cannot be read"):
        call("decode=nowhere.glow")


@pytest.mark.parametrize("name", ["../up.png", "/root.png", "a\\b.png", "run.sh", "..", "a/../../b.png"])
def test_names_lead_nowhere_else(
    call: Any, tiny_run: Path, digits: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(originals._Pictures, "names", lambda self, first, last: [name] * (last - first))
        call(f"ckpt={tiny_run}", f"images={digits}", "verify=false")
    with pytest.raises(UsageError, match="is no name of a picture below a folder"):
        call(f"ckpt={tiny_run}", "decode=pictures.glow", "out=deep/back")
    assert not list(Path("deep").rglob("*.png"))
    assert not Path("up.png").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["images=wide.png"],
            "wide.png is 9x8 of mode L, and this model compresses single pictures of 8x8 of mode L",
        ),
        (["images=colour.png"], "colour.png is 8x8 of mode RGB"),
        (["images=grey.png"], "grey.png has greys that are none of this model's 17 levels"),
        (["images=text.png"], "text.png cannot be read"),
        (["images=empty"], "images: there are no pictures below empty"),
        (["images=./nope"], "nope cannot be read"),
        (["images=twice"], "2 pictures would have the name a.gif.png"),
        (["images=strange"], "is no name that every system takes"),
        (["images=broken.png"], "broken.png cannot be read"),
        (["out=sub"], "out=sub is a folder"),
        (["images=digitz"], "images=digitz is not one of audio_folder, .*did you mean 'digits'"),
        (["images=[grey.png,sub/grey.png]"], "2 pictures would have the name grey.png"),
        (["labels=[3]"], "labels must be all, none or a list of -1"),
        (["verify=no"], "verify must be true or false"),
        (["limit=0"], "limit must be an integer above zero"),
        (["decode=x.glow", "limit=3"], "limit=3 is of compressing"),
    ],
)
def test_settings_that_cannot_work(call: Any, tiny_run: Path, settings: list[str], said: str) -> None:
    Path("empty").mkdir()
    Path("sub").mkdir()
    Path("text.png").write_text("text")
    for name, mode, size in (("wide", "L", (9, 8)), ("colour", "RGB", (8, 8)), ("grey", "L", (8, 8))):
        Image.new(mode, size, 3 if mode == "L" else (3, 3, 3)).save(f"{name}.png")
    for name in ("sub/grey.png", "twice/a.gif", "twice/a.gif.png", "strange/a:b.png", "broken.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(name, "png")
    broken = bytearray(Path("broken.png").read_bytes())
    broken[45] ^= 255
    Path("broken.png").write_bytes(broken)
    with pytest.raises(UsageError, match=said):
        call(f"ckpt={tiny_run}", *settings)
    assert not list(Path().glob("*.glow*"))


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, tiny_run: Path) -> None:
    result = shell(tmp_path, f"ckpt={tiny_run}", "limit=4", program="compress.py")
    assert result.returncode == 0, result.stderr
    assert "wrote pictures.glow: 4 images" in result.stdout
    result = shell(tmp_path, "decode=nothing.glow", program="compress.py")
    assert result.returncode == 2
    assert result.stderr.startswith("error: decode=nothing.glow cannot be read")
    result = shell(tmp_path, "--help", program="compress.py")
    assert "python compress.py decode=pictures.glow out=DIR" in result.stdout


def test_commands_of_all_pages(call: Any, tiny_run: Path, fake_mnist: Path) -> None:
    """Those that compress, then those that read what these wrote."""
    commands = sorted(page_commands("compress", *PAGES), key=lambda c: "decode=" in c)
    assert len(commands) > 3
    for i, command in enumerate(commands):
        arguments = [
            a
            for a in shlex.split(command)[2:]
            if not a.startswith(("dataset.root", "ckpt=outputs", "images="))
        ]
        if "decode=" in command:
            call(*[a for a in arguments if not a.startswith("out=")], f"out=back{i}")
        elif "ckpt=outputs" in command:
            call(*arguments, f"ckpt={tiny_run}", "limit=3")
        else:
            call(*arguments, f"dataset.root={fake_mnist}", "dataset.val_size=4", "limit=3", "labels=none")
    assert len(list(Path().glob("back*/*.png"))) >= 3
