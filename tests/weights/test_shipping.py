"""scripts/ship.py on a tiny run, and what ``ckpt=NAME`` then does: it takes the path first, and writes to outputs/NAME."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import glow
from glow.checkpoint import read_model, resolve
from glow.commands.evaluate import evaluate
from glow.commands.main import CONF, compose
from glow.commands.sample import sample
from glow.errors import UsageError
from glow.evaluation.bits import bits_per_dim
from glow.weights import shipped

from .cards import card, stored_draws


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(CONF.parent / "scripts" / "ship.py"))


def ship(script: dict[str, Any], *arguments: object) -> str | int | None:
    """``python scripts/ship.py ...``: what it exits with; None where it wrote its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ship.py", *map(str, arguments)])
        patch.setattr("glow.checkpoint.ROUNDED", 64)  # the models of tests have no large parameters
        try:
            script["main"]()
        except SystemExit as exit_:
            return exit_.code
    return None


@pytest.fixture(scope="module")
def made(script: dict[str, Any], labelled_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny run as ``tiny``. Do not write into it."""
    folder = tmp_path_factory.mktemp("made")
    assert ship(script, labelled_run, "tiny", "--machine", "an abacus", "--folder", folder) is None
    return folder


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for glow/weights, and is not there yet; we are in another folder, with nothing in it."""
    monkeypatch.setattr("glow.weights.FOLDER", tmp_path / "weights")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "weights"


@pytest.fixture
def folder(empty: Path, made: Path) -> Path:
    """The same with ``tiny`` in it."""
    return Path(shutil.copytree(made, empty))


def test_a_run_is_shipped_and_used_by_its_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["tiny.md", "tiny.png", "tiny.safetensors"]
    assert shipped() == {"tiny": folder / "tiny.safetensors"}
    about = card(folder, "tiny")

    capsys.readouterr()
    drawn = sample(compose("sample", ["ckpt=tiny", "format=npy"]))
    assert "in outputs/tiny/samples: samples_t0.7.npy" in capsys.readouterr().out
    images = torch.from_numpy(np.load("outputs/tiny/samples/samples_t0.7.npy"))
    assert torch.equal(images, stored_draws(folder, "tiny", (1, 8, 8)))
    assert drawn["labels"] == [i % 10 for i in range(64)]

    flow = glow.load("tiny")
    with torch.no_grad():
        log_prob = flow.log_prob(images, torch.arange(64) % 10, noise=torch.full(images.shape, 0.5)).mean()
    assert float(log_prob) == pytest.approx(about["draws"]["mean_log_prob"], abs=1e-2)
    bits = bits_per_dim(log_prob, (1, 8, 8))
    assert float(bits) == pytest.approx(about["draws"]["bits_per_dim"], abs=1e-4)

    measured = evaluate(compose("evaluate", ["ckpt=tiny", "diagnostics=false"]))["weights"]["ema"]
    assert Path("outputs/tiny/evaluation/digits-test/evaluation.json").is_file()
    figures = about["test"]["bits_per_dim"][about["file"]["dtype"]]
    assert measured["mean"] == pytest.approx(figures["mean"], abs=1e-5)
    assert measured["standard_error"] == pytest.approx(figures["standard_error"], abs=1e-5)
    assert measured["n"] == about["test"]["examples"] == 360

    # A file of the package that is named by its path writes there no more than one by its name.
    sample(compose("sample", [f"ckpt={folder}/tiny.safetensors", "n=2", "output_dir=other"]))
    assert Path("other/tiny/samples/samples_t0.7.png").is_file()
    assert len(list(folder.iterdir())) == 3


def test_the_card(folder: Path, labelled_run: Path) -> None:
    about, results = card(folder, "tiny"), json.loads((labelled_run / "results.json").read_text())
    assert about["machine"] == "an abacus"
    assert about["data"] == "digits"
    assert about["steps"] == 2
    assert about["weights"] == "ema"
    assert about["commit"] == results["git_commit"]
    assert about["file"] == {"dtype": "float16", "bytes": (folder / "tiny.safetensors").stat().st_size}
    assert about["test"]["labelled"]
    assert about["test"]["dimensions"] == 64
    assert about["test"]["unlabelled_at_most_more"] == pytest.approx(np.log2(10) / 64, abs=1e-6)
    means = {name: figures["mean"] for name, figures in about["test"]["bits_per_dim"].items()}
    assert 0 < abs(means["float16"] - means["float32"]) < 0.005
    assert about["licence"]["data"].startswith("CC BY 4.0")
    text = (folder / "tiny.md").read_text()
    assert f"**{means['float16']:.4f} +- " in text
    assert "![64 draws](tiny.png)" in text
    assert "/" + str(labelled_run).split("/")[1] not in about["command"]


def test_other_draws_of_weights_that_are_there(script: dict[str, Any], folder: Path) -> None:
    """``sample.py`` draws by the card, unless it is told how."""
    before, file = card(folder, "tiny"), (folder / "tiny.safetensors").read_bytes()
    assert ship(script, "tiny", "--temperature", 0.5, "--guidance", 1, "--folder", folder) is None
    about = card(folder, "tiny")
    assert {k: v for k, v in about.items() if k != "draws"} == {
        k: v for k, v in before.items() if k != "draws"
    }
    assert (about["draws"]["temperature"], about["draws"]["guidance"]) == (0.5, 1)
    assert "at temperature 0.5 and guidance 1, the classes" in (folder / "tiny.md").read_text()
    assert (folder / "tiny.safetensors").read_bytes() == file
    sample(compose("sample", ["ckpt=tiny", "format=npy"]))
    drawn = torch.from_numpy(np.load("outputs/tiny/samples/samples_t0.5_g1.0.npy"))
    assert torch.equal(drawn, stored_draws(folder, "tiny", (1, 8, 8)))
    for asked, guidance in (("temperature=0.5", 0), ("label=none", 0), ("guidance=0.5", 0.5), ("n=3", 1)):
        assert sample(compose("sample", ["ckpt=tiny", asked]))["guidance"] == guidance
    assert "name the run that it is of" in str(ship(script, "other", "--folder", folder))


def test_other_words_of_the_command_are_kept(script: dict[str, Any]) -> None:
    command = "python /a/train.py dataset=mnist dataset.root=../x y.z=/b/c d=~/e 'f=[1, 2]' name=n"
    expected = "python train.py dataset=mnist dataset.root=DIR y.z=DIR d=DIR 'f=[1, 2]' name=n"
    assert script["portable_command"](command) == expected


def test_the_file_does_not_say_where_the_data_was(
    script: dict[str, Any], empty: Path, run: Callable[..., Any], fake_mnist: Path, tmp_path: Path
) -> None:
    root = f"dataset.root={fake_mnist}"
    run(
        "debug=fast", "dataset=mnist", root, "dataset.val_size=20", "name=tiny", "model.depth=1", "model.width=4",
        "callbacks.pictures=null", "callbacks.estimate=null",
    )  # fmt: skip
    assert ship(script, tmp_path / "outputs" / "tiny", "tiny", "--folder", empty) is None
    with safe_open(empty / "tiny.safetensors", framework="pt") as file:
        header = file.metadata()["glow"]
    assert str(tmp_path) not in header
    assert json.loads(header)["dataset"]["root"] == "data"
    assert card(empty, "tiny")["test"]["labelled"]
    with pytest.raises(UsageError, match=r"mnist, .* is not in data .*: set dataset\.root=DIR"):
        evaluate(compose("evaluate", ["ckpt=tiny", "diagnostics=false"]))
    report = evaluate(compose("evaluate", ["ckpt=tiny", root, "diagnostics=false"]))
    figures = card(empty, "tiny")["test"]["bits_per_dim"]["float16"]
    assert report["weights"]["ema"]["mean"] == pytest.approx(figures["mean"], abs=1e-5)


def test_a_path_comes_before_a_name(folder: Path, tiny_run: Path) -> None:
    assert resolve("tiny") == folder / "tiny.safetensors"
    shutil.copytree(tiny_run, "tiny")
    assert resolve("tiny") == Path("tiny/checkpoints/best.ckpt")
    assert glow.load("tiny").classes == 0
    sample(compose("sample", ["ckpt=tiny", "n=2"]))
    assert Path("tiny/samples/samples_t0.7.png").is_file()
    assert not Path("outputs").exists()


@pytest.mark.usefixtures("empty")
def test_without_any_weights_a_name_is_unknown() -> None:
    assert shipped() == {}
    with pytest.raises(UsageError, match="ckpt=mnist is not there, and .* project are none yet$"):
        resolve("mnist")
    with pytest.raises(UsageError, match=r"train one, or name a file with ckpt=$"):
        resolve(None)


@pytest.mark.usefixtures("folder")
def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="project are tiny; did you mean 'tiny'"):
        glow.load("tinny")
    with pytest.raises(UsageError, match="project are tiny$"):
        glow.load("mnist")
    with pytest.raises(UsageError, match=r"ckpt=tinny\.ckpt is not there$"):
        resolve("tinny.ckpt")
    with pytest.raises(UsageError, match=r"ckpt=\.\./tiny is not there$"):
        resolve("../tiny")
    with pytest.raises(UsageError, match=r"train one, .*or take weights .*: ckpt=tiny$"):
        resolve(None)


class TestRefusals:
    def test_what_is_no_finished_run(
        self, script: dict[str, Any], tiny_run: Path, tmp_path: Path, empty: Path
    ) -> None:
        assert "it has no results.json" in str(ship(script, tmp_path, "tiny", "--folder", empty))
        assert ship(script, tiny_run, "Tiny/..", "--folder", empty) == 2
        assert not empty.exists()

    def test_data_of_an_unknown_licence(self, script: dict[str, Any], points_run: Path, empty: Path) -> None:
        arguments = (points_run, "moons", "--folder", empty)
        assert "licence of two_moons: say it with --data-licence" in str(ship(script, *arguments))
        assert "no model of grey images" in str(ship(script, *arguments, "--data-licence", "none"))
        assert not empty.exists()

    def test_a_file_that_is_too_large(
        self, script: dict[str, Any], labelled_run: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(script["main"].__globals__, "LARGEST", 1000)
        said = str(ship(script, labelled_run, "tiny", "--folder", empty))
        assert "bytes in float16, more than 1,000" in said
        assert not empty.exists()

    def test_float16_is_not_taken_where_it_loses_much(self, script: dict[str, Any]) -> None:
        def chosen(mean: float | None) -> str:
            return script["choose"]({"float32": {"mean": 1.0}, "float16": {"mean": mean}})

        assert chosen(1.0049) == chosen(0.9) == "float16"
        assert chosen(1.0051) == chosen(None) == "float32"


class TestHalfPrecision:
    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("glow.checkpoint.ROUNDED", 64)

    def test_only_large_parameters_are_rounded(self, tiny_run: Path, tmp_path: Path) -> None:
        saved = read_model(resolve(tiny_run))
        saved.export(tmp_path / "half.safetensors", dtype=torch.float16)
        flow, tensors = saved.flow(), load_file(tmp_path / "half.safetensors")
        parameters = dict(flow.named_parameters())
        found = {torch.float16: 0, torch.float32: 0}
        for name, value in tensors.items():
            if name in parameters:
                half = value.numel() >= 64
                assert value.dtype == (torch.float16 if half else torch.float32), name
                found[value.dtype] += 1
            else:
                assert torch.equal(value, flow.get_buffer(name)), name
        assert all(found.values())

    def test_it_comes_back_in_float32(self, tiny_run: Path, tmp_path: Path) -> None:
        file = tmp_path / "half.safetensors"
        overrides = [f"ckpt={tiny_run}", f"export={file}", "export_dtype=float16"]
        sample(compose("sample", overrides))
        whole, half = glow.load(tiny_run).state_dict(), glow.load(file).state_dict()
        for name, value in whole.items():
            if isinstance(value, torch.Tensor):
                assert half[name].dtype == value.dtype
                torch.testing.assert_close(half[name], value, rtol=1e-3, atol=1e-7)
        with pytest.raises(UsageError, match="export_dtype='float8' is not one of float32, float16"):
            sample(compose("sample", [*overrides[:2], "export_dtype=float8"]))

    def test_what_float16_cannot_hold_stays(self, tiny_run: Path, tmp_path: Path) -> None:
        saved = read_model(resolve(tiny_run))
        name = max(dict(saved.flow().named_parameters()).items(), key=lambda item: item[1].numel())[0]
        saved.weights["ema"][name] = saved.weights["ema"][name].clone()
        saved.weights["ema"][name].view(-1)[0] = 1e6
        saved.export(tmp_path / "half.safetensors", dtype=torch.float16)
        assert load_file(tmp_path / "half.safetensors")[name].dtype == torch.float32
