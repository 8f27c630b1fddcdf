"""Inference from a simulator, from the command line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glow.checkpoint import load
from glow.commands.evaluate import evaluate
from glow.commands.main import compose
from glow.commands.sample import sample
from glow.commands.train import train

Run = Callable[..., dict[str, Any]]

TINY = (
    "debug=fast", "callbacks.estimate=null", "dataset.train_size=300", "dataset.val_size=50", "dataset.test_size=60",
    "model.layers=2", "model.hidden=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def posterior_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps. Do not write into it."""
    folder = tmp_path_factory.mktemp("runs")
    results = train(compose("train", [f"output_dir={folder}", "name=moons", "experiment=posterior", *TINY]))
    assert results["true_nll"] < results["test"]["raw"]
    assert results["picture"] == "samples/density.png"  # of samples, beside the known posterior's
    return folder / "moons"


def drawn(run: Path, out: Path, *overrides: str) -> dict[str, Any]:
    return sample(compose("sample", [f"ckpt={run}", f"out={out}", *overrides]))


def test_samples_given_an_observation(posterior_run: Path, tmp_path: Path) -> None:
    report = drawn(posterior_run, tmp_path, "observation=[0,0.1]", "n=20", "temperature=[0.5,1]")
    assert report["observation"] == pytest.approx([0, 0.1])
    assert report["files"] == ["samples_t0.5.png", "samples_t1.png", "temperature_strip.png"]
    width, height = Image.open(tmp_path / "samples_t1.png").size
    assert width == 2 * height  # beside the known posterior


def test_they_are_those_of_the_model(posterior_run: Path, tmp_path: Path) -> None:
    """At temperature one unless told; another observation gives others."""
    found = []
    for x in ("[0,0]", "[0,-0.5]"):
        report = drawn(posterior_run, tmp_path, f"observation={x}", "n=20", "format=npy")
        assert report["samples"][0]["temperature"] == 1
        found.append(np.load(tmp_path / "samples_t1.npy"))
    assert found[0].shape == (20, 2)
    assert not np.allclose(*found)


def test_without_an_observation_one_of_the_test_is_taken(
    posterior_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = drawn(posterior_run, tmp_path, "n=5")
    assert "given the first observation of the test split, [" in capsys.readouterr().out
    assert len(report["observation"]) == 2


@pytest.mark.slow
def test_evaluation(posterior_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The likelihood of the run's test, the latents' diagnosis, and the classifier two-sample test with its floor."""
    command = [f"ckpt={posterior_run}", f"out={tmp_path}", "c2st=true", "observations=2", "samples=60"]
    report = evaluate(compose("evaluate", command))
    assert json.loads((tmp_path / "evaluation.json").read_text()) == report
    trained = json.loads((posterior_run / "results.json").read_text())
    assert report["diagnostics"]["bits"]["log_prob"] == pytest.approx(
        report["weights"]["raw"]["mean"], abs=1e-3
    )
    assert report["true_nll"] < report["weights"]["raw"]["mean"]
    assert trained["test_examples"] <= 60
    assert "baselines" not in report  # of densities that know no observation
    found = report["c2st"]
    assert len(found["each"]) == len(found["observations"]) == 2
    assert found["mean"] > 0.85  # after two steps
    assert found["floor"] < 0.7
    assert "two-sample test of 60 samples at 2 observations" in capsys.readouterr().out
    with (tmp_path / "per_image.csv").open() as file:
        assert next(csv.reader(file)) == ["index", "raw"]


def test_ten_dimensions(run: Run, tmp_path: Path) -> None:
    run("experiment=posterior", "dataset=linear_gaussian", "name=line", *TINY, "logger=none")
    folder = tmp_path / "outputs/line"
    assert load(folder).observed == 10  # type: ignore[attr-defined]
    report = drawn(folder, tmp_path / "drawn", "n=7", f"observation={[0.1] * 10}".replace(" ", ""))
    assert report["files"] == ["samples_t1.npy"]


def test_a_run_goes_on(run: Run) -> None:
    """Stopped after an epoch of two steps and repeated, it ends where a run of two epochs does, to the last bit."""
    same = (
        "experiment=posterior", *TINY, "logger=none", "callbacks.pictures=null", "fit.max_epochs=null",
        "schedule=constant", "resume=true",
    )  # fmt: skip
    whole = run(*same, "name=whole", "fit.max_steps=4")
    run(*same, "name=parts", "fit.max_steps=2")
    parts = run(*same, "name=parts", "fit.max_steps=4")
    assert parts["steps"] == whole["steps"] == 4
    assert parts["test"] == whole["test"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["observation=[0,0,1]"], r"observation must be a list of 2 numbers, got \[0, 0, 1\]"),
        (["observation=3"], "observation must be a list of 2 numbers, got 3"),
        (["observation=[a,1]"], "observation must be a list of 2 numbers"),
        (["observation=[5,5]"], r"no parameters of the prior of the simulator give the observation \[5.0, 5.0\]"),
        (["label=1"], "not class-conditional"),
        (["mode=interpolate"], "needs a model of images"),
    ],
)  # fmt: skip
def test_bad_observations(posterior_run: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(posterior_run, tmp_path, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["c2st=no"], "c2st must be true or false"),
        (["c2st=true", "observations=0"], "observations must be an integer above zero"),
        (["c2st=true", "samples=0.5"], "samples must be an integer above zero"),
        (["c2st=true", "samples=9"], "samples=9: c2st=true needs at least 10"),
        (["draws=2"], "draws must be 1"),
        (["quality=true"], "quality=true needs a model of images"),
        (["ood=digits"], "ood needs a flow of grey images"),
    ],
)
def test_bad_measurements(posterior_run: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(compose("evaluate", [f"ckpt={posterior_run}", f"out={tmp_path}", *overrides]))


def test_other_models_take_no_observation(points_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"observation=\[0, 0\] was given, but this model is not conditioned"
    ):
        drawn(points_run, tmp_path, "observation=[0,0]")
    with pytest.raises(ValueError, match="c2st=true needs a model that is conditioned on an observation"):
        evaluate(compose("evaluate", [f"ckpt={points_run}", f"out={tmp_path}", "c2st=true"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=maf"], "observations of dataset.context=2 numbers, and the model takes 0: choose model=nsf_posterior"),
        (["dataset.context=3"], "dataset.context must be 2, the length of an observation of two_moons, got 3"),
        (["dataset.kind=three_moons"], "dataset.kind='three_moons' is not one of linear_gaussian, two_moons"),
        (["objective=reverse_kl"], "needs a density"),
        (["dataset=two_moons", "model=nsf", "model.context=2"], "y must be what was observed"),
    ],
)  # fmt: skip
def test_bad_settings(run: Run, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run("experiment=posterior", "debug=fast", "callbacks.estimate=null", *overrides)
