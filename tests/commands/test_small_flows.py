"""Every small flow and every density in the plane, from the command line: the smoke runs of CI."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glow.checkpoint import SavedModel, load
from glow.commands.evaluate import evaluate
from glow.commands.main import CONF, compose
from glow.commands.sample import sample
from glow.distributions.plane import DENSITIES
from glow.flows import build

Run = Callable[..., dict[str, Any]]

TINY = ("debug=fast", "callbacks.estimate=null", "logger=none")
POINTS = (
    *TINY,
    "dataset.train_size=400",
    "dataset.val_size=50",
    "dataset.test_size=100",
    "callbacks.pictures=null",
)
VECTORS = sorted(
    p.stem
    for p in (CONF / "model").glob("*.yaml")
    if not p.stem.startswith("glow")
    and p.stem not in ("vae", "pixelcnn", "pixelrnn", "wavenet", "nsf_posterior")
)


@pytest.mark.parametrize("model", VECTORS)
def test_every_family_trains_on_points(run: Run, model: str) -> None:
    results = run("dataset=two_moons", f"model={model}", *POINTS)
    assert math.isfinite(results["test"]["raw"])
    assert 0.1 < results["true_nll"] < 0.5


@pytest.mark.parametrize("kind", ["checkerboard", "energy_4"])
def test_densities_run_on_points(run: Run, kind: str) -> None:
    results = run(f"dataset={kind}", "model=nsf", *POINTS)
    assert results["unit"] == "nats"
    assert results["test"]["raw"] > results["true_nll"]


@pytest.mark.parametrize("kind", [k for k in DENSITIES if k != "checkerboard"])
def test_every_density_runs_on_its_formula(run: Run, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    results = run("experiment=reverse_kl", f"dataset={kind}", *POINTS)
    report = results["reverse_kl"]
    assert report["elbo_gap"] > 0
    assert 0 < report["ess"] < 1
    assert ("free_energy_estimate" in report) == (kind in ("double_well", "dimer"))
    assert "below the log normalizer" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", ["double_well", "dimer"])
def test_a_boltzmann_generator(
    run: Run, tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its figure is that of the data alone; the formula's stand beside it."""
    results = run("experiment=boltzmann", f"dataset={dataset}", "name=boltzmann", *POINTS)
    assert results["unit"] == "nats"
    assert results["test"]["raw"] > results["true_nll"]
    assert 0 < results["reverse_kl"]["ess"] < 1
    assert "kT from weighted samples" in capsys.readouterr().out
    ckpt = f"ckpt={tmp_path}/outputs/boltzmann"
    sample(compose("sample", [ckpt, "n=20"]))
    report = evaluate(compose("evaluate", [ckpt, "limit=50", "diagnosed=50"]))
    assert report["true_nll"] == pytest.approx(results["true_nll"], abs=0.5)


@pytest.mark.parametrize(
    "base", ["mixture", *(pytest.param(b, marks=pytest.mark.slow) for b in ("uniform", "student_t"))]
)
def test_every_base(run: Run, tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, drawn, sampled from and measured."""
    run("dataset=bimodal", f"model.base={base}", "name=based", *POINTS[:-1])
    assert (tmp_path / "outputs/based/samples/density.png").is_file()
    sample(compose("sample", [f"ckpt={tmp_path}/outputs/based", "n=50", "temperature=[0.5,1]"]))
    report = evaluate(compose("evaluate", [f"ckpt={tmp_path}/outputs/based"]))
    assert "diagnostics" not in report
    assert report["true_nll"] == pytest.approx(2.15, abs=0.3)
    assert "made for a standard normal base" in capsys.readouterr().out


@pytest.mark.parametrize("experiment", ["made", "vae"])
def test_densities_of_binary_images(
    run: Run, tmp_path: Path, experiment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, sampled from and measured; what needs exact latents is refused."""
    results = run(f"experiment={experiment}", "name=binary", *TINY, "model.hidden=16")
    assert results["unit"] == "nats"
    assert (tmp_path / "outputs/binary" / results["picture"]).is_file()
    ckpt = f"ckpt={tmp_path}/outputs/binary"
    sample(compose("sample", [ckpt, "n=6"]))
    assert (tmp_path / "outputs/binary/samples/samples_t0.7.png").is_file()
    with pytest.raises(ValueError, match="mode=reconstruct needs a flow"):
        sample(compose("sample", [ckpt, "mode=reconstruct"]))
    draws = ["draws=3", "bound=iw"] if experiment == "vae" else []
    report = evaluate(compose("evaluate", [ckpt, "limit=40", *draws]))
    assert report["unit"] == "nats"
    assert ("exact" in report) == (experiment == "made")
    assert "diagnostics" not in report


@pytest.mark.parametrize("posterior", ["iaf", "planar", "sylvester"])
def test_posteriors(run: Run, posterior: str) -> None:
    assert math.isfinite(run("experiment=vae", f"model.posterior={posterior}", *TINY)["test"]["ema"])


def test_continuous_time_of_images(run: Run, tmp_path: Path) -> None:
    """Trained, its solver's work logged, interpolated, measured: the estimated trace is the same in all of it."""
    small = (
        "model.hidden=16",
        "model.hidden_layers=1",
        "model.tolerance=1e-3",
        "trainer.log_every_n_steps=1",
    )
    results = run("experiment=ffjord_digits", "name=ode", *TINY[:-1], "logger=csv", *small)
    assert results["unit"] == "bits/dim"
    with (tmp_path / "outputs/ode/metrics.csv").open() as file:
        calls = [float(row["train/evaluations"] or "nan") for row in csv.DictReader(file)]
    assert max(c for c in calls if c == c) > 7
    ckpt = f"ckpt={tmp_path}/outputs/ode"
    sample(compose("sample", [ckpt, "n=4", "mode=interpolate"]))
    report = evaluate(compose("evaluate", [ckpt, "limit=40", "diagnosed=40"]))
    bits = report["diagnostics"]["bits"]
    assert bits["total"] == pytest.approx(bits["log_prob"], abs=1e-5)


def test_residual_blocks_of_images(run: Run, tmp_path: Path) -> None:
    """Trained, their Lipschitz constants logged, interpolated, measured: the estimate is the same in all of it."""
    small = ("model.hidden=16", "model.layers=2", "trainer.log_every_n_steps=1")
    results = run("experiment=residual_digits", "name=blocks", *TINY[:-1], "logger=csv", *small)
    assert results["unit"] == "bits/dim"
    with (tmp_path / "outputs/blocks/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/lipschitz"]]
    assert all(0.1 < float(row["train/lipschitz"]) < 0.975 for row in rows)
    assert max(float(row["train/terms"]) for row in rows) > 2
    ckpt = f"ckpt={tmp_path}/outputs/blocks"
    sample(compose("sample", [ckpt, "n=4", "mode=interpolate"]))
    report = evaluate(compose("evaluate", [ckpt, "limit=40", "diagnosed=40"]))
    bits = report["diagnostics"]["bits"]
    assert bits["total"] == pytest.approx(bits["log_prob"], abs=1e-5)


@pytest.mark.parametrize(
    ("model", "levels", "unit"), [("pixelcnn", 17, "bits/dim"), ("pixelrnn", 17, "bits/dim"), ("pixelrnn", 2, "nats")]
)  # fmt: skip
def test_pixel_by_pixel(
    run: Run, tmp_path: Path, model: str, levels: int, unit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained by the optimizer of its data, drawn, completed where that is exact, and measured without a bound."""
    small = ("model.width=8", "model.layers=2", f"dataset.grey_levels={levels}")
    results = run("dataset=digits", f"model={model}", "name=pixels", *TINY, *small)
    assert results["unit"] == unit
    ckpt = f"ckpt={tmp_path}/outputs/pixels"
    sample(compose("sample", [ckpt, "n=4", "temperature=[0.7,1]"]))
    sample(compose("sample", [ckpt, "mode=complete", "mask=bottom", "images=[0,3]", "completions=2"]))
    assert (tmp_path / "outputs/pixels/samples/complete.png").is_file()
    for mode, message in (("complete", "mask=bottom"), ("interpolate", "needs a flow")):
        with pytest.raises(ValueError, match=message):
            sample(compose("sample", [ckpt, f"mode={mode}"]))
    report = evaluate(compose("evaluate", [ckpt, "limit=40"]))
    assert report["unit"] == unit
    assert report["exact"]
    assert "no bound" in capsys.readouterr().out


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_realnvp_learns_images_better_than_nice(run: Run) -> None:
    short = ("fit.max_steps=150", "fit.max_epochs=null", "callbacks.pictures=null", "logger=none")
    nice, realnvp = (run(f"experiment={name}_digits", *short) for name in ("nice", "realnvp"))
    assert nice["unit"] == "bits/dim"
    assert realnvp["test"]["raw"] < nice["test"]["raw"] - 0.2
    assert nice["test"]["raw"] < 4.09  # what a uniform distribution costs


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_the_figures_of_the_page_about_small_flows(run: Run) -> None:
    """With a third of the steps, and a little more room."""
    short = ("fit.max_steps=1000", "callbacks.pictures=null", "logger=none")
    bimodal = run("dataset=bimodal", "model=nsf", *short)
    assert bimodal["test"]["raw"] - bimodal["true_nll"] < 0.07
    wells = run("experiment=reverse_kl", "dataset=double_well", *short)["reverse_kl"]
    assert wells["elbo_gap"] < 0.05
    assert abs(wells["free_energy_estimate"] - wells["free_energy_difference"]) < 0.1


@pytest.mark.parametrize("model", ["planar", "iaf", "realnvp"])
def test_other_flows_learn_from_formulas(run: Run, model: str) -> None:
    fast = ["model.direction=sampling"] if model == "planar" else []
    assert run("experiment=reverse_kl", f"model={model}", *fast, *POINTS)["unit"].startswith("nats")


def test_a_wrong_base_is_told(run: Run, tmp_path: Path) -> None:
    run("experiment=nice_digits", "name=cube", *TINY, "callbacks.pictures=null")
    ckpt = f"ckpt={tmp_path}/outputs/cube"
    for mode in ("interpolate", "reconstruct", "complete", "manipulate"):
        with pytest.raises(ValueError, match=f"mode={mode} needs a flow with a standard normal base"):
            sample(compose("sample", [ckpt, f"mode={mode}"]))
    sample(compose("sample", [ckpt, "n=4"]))


EXPORTED: dict[str, dict[str, Any]] = {
    "MAF": {}, "IAF": {}, "FFJORD": {}, "ResidualFlow": {}, "NSF": {"autoregressive": True}, "PlanarFlow": {}, "RadialFlow": {},
    "RealNVP": {"base": "mixture"}, "MADEDensity": {"order_agnostic": True},
    "PixelCNN": {"event_shape": [1, 8, 8], "grey_levels": 17},
    "PixelRNN": {"event_shape": [1, 8, 8], "grey_levels": 17},
    "WaveNet": {"event_shape": [1, 128]},
    "VAE": {"event_shape": [1, 8, 8], "grey_levels": 2, "posterior": "iaf"},
}  # fmt: skip


@pytest.mark.parametrize("recipe", EXPORTED)
def test_exported_models_come_back(recipe: str, tmp_path: Path) -> None:
    model = {"event_shape": [2], **EXPORTED[recipe], "_target_": f"glow.flows.{recipe}"}
    flow = build(model).eval()
    path = tmp_path / "model.safetensors"
    SavedModel(tmp_path / "x.ckpt", model, None, 0, 0, {"raw": flow.state_dict()}).export(path)
    for a, b in zip(flow.state_dict().values(), load(path).state_dict().values(), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == {"initialized": False} or a == b


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=reverse_kl", "dataset=digits", "model=glow_small"], "choose one of the datasets in the plane"),
        (["experiment=reverse_kl", "dataset=checkerboard"], "nowhere zero"),
        (["dataset=digits", "model=made"], "grey_levels must be 2"),
        (["dataset=digits", "model=planar"], "vectors"),
        (["dataset=banana", "model.base=cauchy"], "base='cauchy' is not one of"),
        (["dataset=banana", "objective=reverse_kl", "dataset.noise=0"], "nowhere zero"),
    ],
)  # fmt: skip
def test_bad_settings(run: Run, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(*overrides, *TINY)
