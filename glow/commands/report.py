"""What a run says and leaves behind: its start line, ``results.json`` and the report at its end."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig

from glow.checkpoint import SavedModel
from glow.data import ArrayData, Toy
from glow.evaluation.bits import UNITS
from glow.evaluation.reverse_kl import reverse_kl_report
from glow.flows.flow import Flow
from glow.resilience import BestCheckpoint
from glow.resilience.storage import replace
from glow.seeds import generator
from glow.training import FlowModule, Throughput
from glow.training.progress import clock

WEIGHTED = 50_000
"""Samples of the flow that are weighted at the end of reverse-KL training."""


def summary(
    cfg: DictConfig,
    trainer: L.Trainer,
    module: FlowModule,
    data: ArrayData,
    folder: Path,
    test: dict[str, float],
    examples: int,
    best: SavedModel | None,
) -> dict[str, Any]:
    """What ``results.json`` holds; the picture is not drawn yet.

    Args:
        cfg: the configuration.
        trainer: after the test.
        module: likewise.
        data: the data.
        folder: the run's.
        test: the figure per kind of weights, ``raw`` and ``ema``, in the module's unit.
        examples: how many were tested.
        best: the checkpoint that was tested.
    """
    score = getattr(callback_of(trainer, BestCheckpoint), "best_model_score", None)
    throughput = callback_of(trainer, Throughput)
    return {
        "name": folder.name,
        "dataset": cfg.dataset.name,
        "model": cfg.model.name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "unit": UNITS[module.unit],
        "test": {k: v if math.isfinite(v) else None for k, v in test.items()},
        "test_examples": examples,
        "val": None if score is None else float(score),
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "skipped": module.skipped,
        "train_seconds": round(throughput.seconds, 1) if throughput else None,
        "images_per_s": round(throughput.mean, 1) if throughput else None,
        "checkpoint": best and inside(best.path, folder),
        "picture": None,
        **_beside_the_truth(module, data),
        "seed": cfg.seed,
        "device": device_name(trainer),
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "command": " ".join(["python", *sys.argv]),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "torchvision", "lightning", "hydra-core", "numpy")},
    }


def inside(path: Path, folder: Path) -> str:
    """The path as seen from the folder; as it is if it lies elsewhere."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def write_results(results: dict[str, Any], folder: Path) -> None:
    """As ``results.json``, whole or not at all."""
    replace(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())


def say_start(
    cfg: DictConfig, module: FlowModule, trainer: L.Trainer, folder: Path, checkpoint: Path | None
) -> None:
    """One line, of the main process: the model, the data, the device, and which run it is."""
    if trainer.is_global_zero:
        parameters = sum(p.numel() for p in module.parameters())
        devices = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
        print(
            f"{cfg.model.name} ({parameters / 1e6:,.2f} M parameters) on {cfg.dataset.name}, "
            f"{devices}{device_name(trainer)}, {trainer.precision}; "
            f"{f'continuing {checkpoint}' if checkpoint else f'new run in {folder}'}",
            flush=True,
        )


def say_results(results: dict[str, Any], folder: Path) -> None:
    """The figures of ``results.json``, and what lies where in the folder."""

    def figure(kind: str) -> str:
        value = results["test"][kind]
        return f"{value:.4f} {results['unit']}" if value is not None else "not finite"

    kinds = {"ema": "with averaged weights", "raw": "with raw weights"}
    test = ", ".join(f"{figure(k)} {kinds[k]}" for k in kinds if k in results["test"]) or "not tested"
    seconds = results["train_seconds"]
    print(f"done: {results['steps']:,} steps" + (f" in {clock(seconds)} of training" if seconds else ""))
    if results.get("skipped"):
        print(f"skipped: {results['skipped']:,} of these steps, whose loss or gradient was not finite")
    print(f"test: {test} ({results['test_examples']:,} examples)")
    if "true_nll" in results:
        print(f"truth: {results['true_nll']:.4f} nats, the entropy of the test points")
    if "reverse_kl" in results:
        report = {k: math.nan if v is None else v for k, v in results["reverse_kl"].items()}
        print(
            f"ELBO {report['elbo']:.4f} nats, {report['elbo_gap']:.4f} below the log normalizer "
            f"{report['log_normalizer']:.4f}; effective sample size {report['ess']:.1%} of {report['samples']:,}"
        )
        if "free_energy_estimate" in report:
            print(
                f"free energy difference {report['free_energy_estimate']:.4f} kT from weighted samples, "
                f"{report['free_energy_difference']:.4f} by integration"
            )
    drawn = "what the model draws" + (", a row per temperature" if results["unit"] == "bits/dim" else "")
    lines = [
        ("results.json", "the figures, with seed, versions and commit"),
        (results["picture"], drawn),
        ("samples", "samples during training"),
        ("checkpoints/best.ckpt", "the best weights by validation, which were tested"),
        ("checkpoints/last.ckpt", "the last ones, from which the run can be continued"),
        ("metrics.csv", "all curves"),
        ("tensorboard", f"the same and the samples: tensorboard --logdir {folder.parent}"),
    ]
    print(f"everything is in {folder}:")
    for name, what in lines:
        if name and (folder / name).exists():
            print(f"  {name:<26} {what}")


def _beside_the_truth(module: FlowModule, data: ArrayData) -> dict[str, Any]:
    """What is known of a density in the plane: the entropy of the test points, or the figures of reverse-KL training."""
    if module.target is not None:
        assert isinstance(module.flow, Flow)
        source = generator("cpu", "weights", module.seed)
        return {"reverse_kl": reverse_kl_report(module.flow, module.target, WEIGHTED, source)}
    truth = data.true_nll(data.splits["test"][0]) if isinstance(data, Toy) and "test" in data.splits else None
    return {} if truth is None else {"true_nll": truth}


def device_name(trainer: L.Trainer) -> str:
    """The card's name, or ``cpu``."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def callback_of(trainer: L.Trainer, kind: type) -> Any:
    """The trainer's first callback of a kind, or None."""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


def git_commit() -> str | None:
    """The commit of this checkout, with ``-dirty`` if files differ from it; None outside one."""
    root = Path(__file__).resolve().parents[2]
    try:
        describe = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return describe.stdout.strip()
