"""The weights in glow/weights: each draws what its picture shows and measures what its card says."""

import fnmatch
import math
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

import glow
from glow.commands.evaluate import evaluate
from glow.commands.main import CONF, compose
from glow.commands.sample import sample
from glow.evaluation.bits import bits_per_dim
from glow.evaluation.classifier import classifiers, load_classifier
from glow.weights import FOLDER, shipped

from .cards import card, stored_draws

EVERY = pytest.mark.parametrize("name", shipped())
LARGEST = 2_000_000


@EVERY
def test_the_files_are_small_and_belong_together(name: str) -> None:
    file, about = shipped()[name], card(FOLDER, name)
    assert file.stat().st_size == about["file"]["bytes"] <= LARGEST
    assert about["name"] == name
    figures = about["test"]["bits_per_dim"]
    if about["file"]["dtype"] == "float16":
        assert figures["float16"]["mean"] - figures["float32"]["mean"] < 0.005
    assert about["licence"]["data"]
    assert about["commit"]
    for secret in (b"/work", b"/home", b"/root", b"/tmp"):  # the machine that trained it
        assert secret not in file.read_bytes()[:20_000]
        assert secret not in (FOLDER / f"{name}.md").read_bytes()


@EVERY
def test_it_draws_what_is_stored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rounding of another machine may change a few pixels."""
    monkeypatch.chdir(tmp_path)
    before = sorted(FOLDER.iterdir())
    sample(compose("sample", [f"ckpt={name}", "format=npy", "device=cpu"]))
    draws = card(FOLDER, name)["draws"]
    file = f"samples_t{draws['temperature']}_g{draws['guidance']}.npy"
    drawn = torch.from_numpy(np.load(tmp_path / "outputs" / name / "samples" / file))
    stored = stored_draws(FOLDER, name, glow.load(name).event_shape)
    assert (drawn != stored).double().mean() < 0.01
    assert sorted(FOLDER.iterdir()) == before


@EVERY
def test_the_stored_draws_have_the_log_prob_of_the_card(name: str) -> None:
    flow, about = glow.load(name), card(FOLDER, name)
    x = stored_draws(FOLDER, name, flow.event_shape)
    y = torch.arange(64) % flow.classes if flow.classes else None
    with torch.no_grad():
        log_prob = flow.log_prob(x, y, noise=torch.full(x.shape, 0.5)).double().mean()
    bits = float(bits_per_dim(log_prob, flow.event_shape))
    assert bits == pytest.approx(about["draws"]["bits_per_dim"], abs=1e-3)
    assert float(log_prob) == pytest.approx(
        about["draws"]["mean_log_prob"], abs=1e-3 * math.prod(flow.event_shape)
    )


@EVERY
def test_the_classifier_of_its_data_sees_the_labels_of_the_draws(name: str) -> None:
    """Which ``evaluate.py quality=true`` goes by."""
    file = classifiers()[card(FOLDER, name)["data"]]
    assert file.stat().st_size < 200_000
    x = stored_draws(FOLDER, name, (1, 28, 28))
    with torch.no_grad():
        _, logits = load_classifier(file.stem)(x)
    assert (logits.argmax(1) == torch.arange(64) % 10).double().mean() > 0.8


@pytest.mark.slow
@pytest.mark.skipif("GLOW_DATA" not in os.environ, reason="GLOW_DATA does not name the folder of the data")
@EVERY
def test_the_figure_of_the_card(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``GLOW_DATA=DIR pytest -m slow tests/weights``: the whole test set, minutes."""
    root = Path(os.environ["GLOW_DATA"]).resolve()
    monkeypatch.chdir(tmp_path)
    about = card(FOLDER, name)
    options = [
        "diagnostics=false",
        "device=cpu",
        *([f"dataset.root='{root}'"] if about["data"] != "digits" else []),
    ]
    report = evaluate(compose("evaluate", [f"ckpt={name}", *options]))
    figures = about["test"]["bits_per_dim"][about["file"]["dtype"]]
    measured = report["weights"][about["weights"]]
    assert measured["n"] == about["test"]["examples"]
    assert measured["mean"] == pytest.approx(figures["mean"], abs=1e-4)
    assert measured["standard_error"] == pytest.approx(figures["standard_error"], abs=1e-4)


def test_every_file_is_package_data_and_in_the_image() -> None:
    root = CONF.parent
    globs = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["glow"]
    ignored = (root / ".dockerignore").read_text().split()
    shown = (FOLDER / f"mnist.{suffix}" for suffix in ("safetensors", "md", "png"))
    for path in (*shown, *classifiers().values()):
        inside = path.relative_to(root / "glow").as_posix()
        assert any(fnmatch.fnmatch(inside, pattern) for pattern in globs), inside
        parents = [p.as_posix() for p in (path, *path.parents) if p.is_relative_to(root)]
        for pattern in ignored:
            assert not any(fnmatch.fnmatch(Path(p).relative_to(root).as_posix(), pattern) for p in parents)
