"""Training on a GPU: precisions, resumption, graphs and several processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from glow.commands.main import CONF
from glow.flows import Glow
from glow.resilience import NonFiniteGuard
from glow.training import MaximumLikelihood, Muon, graphs, replay
from glow.training.replay import Replays, Rerun

from .small import ADAMAX, SMALL, fit
from .test_graphs import Captured, Spoil, close, data, same, weights

pytestmark = pytest.mark.gpu

ON = {"cuda": "gpu", "cpu": "cpu"}
TINY = ("debug=fast", "model.depth=1", "model.width=8", "callbacks.estimate=null", "resume=true")
OPTIMIZERS: dict[str, Any] = {
    "adamax": ADAMAX,
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
    "muon": partial(Muon, lr=2e-3, rest=ADAMAX),
}

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def on(device: torch.device) -> str:
    return ON[device.type]


@pytest.fixture
def stand_in(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """For graphs on the CPU, where these tests are only tried out."""
    if device.type == "cpu":
        monkeypatch.setattr(replay, "CudaGraphs", Rerun)
        monkeypatch.setattr(graphs, "obstacle", lambda trainer: None)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", "64-true"])
def test_a_run_with_muon_averages_and_pictures(run: Run, tmp_path: Path, on: str, precision: str) -> None:
    results = run(*TINY, f"trainer.accelerator={on}", f"trainer.precision={precision}")
    assert set(results["test"]) == {"ema", "raw"}
    assert all(0 < value < 20 for value in results["test"].values())
    folder = tmp_path / "outputs" / "digits-glow_small"
    assert (folder / results["picture"]).is_file()
    assert list((folder / "samples").glob("*.png"))


def test_a_run_continues(run: Run, on: str) -> None:
    long = (
        *TINY,
        f"trainer.accelerator={on}",
        "fit.max_epochs=null",
        "callbacks.pictures=null",
        "schedule=constant",
    )
    run(*long, "name=parts", "fit.max_steps=3")
    parts = run(*long, "name=parts", "fit.max_steps=6")
    whole = run(*long, "name=whole", "fit.max_steps=6")
    assert parts["steps"] == whole["steps"] == 6
    assert parts["test"]["raw"] == pytest.approx(whole["test"]["raw"], rel=1e-3)


def glow(optimizer: Any, graphs: bool = False, **changed: Any) -> MaximumLikelihood:
    torch.manual_seed(0)
    model = {**SMALL, "event_shape": [1, 8, 8], "levels": 2, **changed}
    module = MaximumLikelihood(None, optimizer, model=model)
    module.graphs = graphs
    return module


@pytest.mark.parametrize(
    ("optimizer", "options", "changed"),
    [
        *((name, {}, {}) for name in OPTIMIZERS),
        ("muon", {"gradient_clip_val": 1.0}, {}),
        ("muon", {"precision": "bf16-mixed"}, {}),
        ("muon", {"precision": "64-true"}, {}),
        ("muon", {}, {"recompute": "step"}),
        ("muon", {}, {"recompute": "reversible"}),
        ("muon", {"precision": "bf16-mixed"}, {"kernels": "triton"}),
        ("adamax", {}, {"coupling": "mixture"}),
    ],
)
def test_replayed_steps_train_as_others_do(
    optimizer: str, options: dict[str, Any], changed: dict[str, Any], on: str, stand_in: None
) -> None:
    make = OPTIMIZERS[optimizer]
    modules, captured = (glow(make, **changed), glow(make, graphs=True, **changed)), Captured()
    for module in modules:
        fit(
            module,
            NonFiniteGuard(),
            captured,
            data=data(True),
            accelerator=on,
            limit_train_batches=6,
            limit_val_batches=0,
            **options,
        )
    assert captured.graphs, "None: refused; 0: not captured"
    low = "precision" in options
    for a, b in zip(weights(modules[0]), weights(modules[1]), strict=True):
        assert close([a], [b]) if not low else (a - b).norm() < 0.05 * (1 + b.norm())


@pytest.mark.parametrize("at", [0, 5], ids=["first", "replayed"])
def test_the_device_leaves_out_a_step_that_is_not_finite(at: int, on: str, stand_in: None) -> None:
    torch.manual_seed(0)
    model = {"_target_": "glow.flows.RealNVP", "event_shape": [2], "layers": 2, "hidden": 8}
    module = MaximumLikelihood(None, partial(torch.optim.Adam, lr=2e-3), model=model)
    module.graphs, spoil, guard, captured = True, Spoil("batch", at), NonFiniteGuard("skip"), Captured()
    with pytest.warns(UserWarning, match=rf"at step {at} and is skipped \(1 of at most 10\): batch {at} of"):
        fit(module, guard, spoil, captured, data=data(False), accelerator=on)
    assert captured.graphs
    if at:
        assert same(spoil.after[at - 1], spoil.after[at])
    assert all(t.isfinite().all() for t in spoil.after[-1])
    assert not same(spoil.after[at], spoil.after[at + 1])


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bf16"])
def test_replayed_densities_and_samples_are_those_of_others(low: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    flow = Glow((3, 8, 8), depth=2, width=16).to(device)
    x = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8, device=device)
    flow.initialize(x)
    noise, latents = torch.rand(x.shape, device=device), flow.eval().sample_latents(4)
    backend = Rerun() if device.type == "cpu" else None
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=low, cache_enabled=False):
        for function, inputs in (
            (lambda x, noise: (flow.log_prob(x, noise=noise),), (x, noise)),
            (lambda *z: (flow.generate(z),), latents),
        ):
            replays = Replays(function, backend)
            for _ in range(6):
                found = replays(*inputs)
            assert replays._captured
            torch.testing.assert_close(found, function(*inputs), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("devices", [1, 2])
def test_processes_share_gradients(devices: int, device: torch.device, on: str, tmp_path: Path) -> None:
    """By NCCL on GPUs; one process always, two where two GPUs are seen."""
    if devices > max(1, torch.cuda.device_count()):
        pytest.skip(f"needs {devices} GPUs")
    command = [
        sys.executable, str(CONF.parent / "train.py"), *TINY, f"trainer.accelerator={on}", f"trainer.devices={devices}",
        "trainer.strategy=ddp", "compile=graph", "callbacks.pictures=null", f"output_dir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "compile=graph: " in done.stderr
    assert "training goes on without graphs" in done.stderr
