"""What a run says and leaves behind: its start line, ``results.json``, its last picture, the report at its end."""

import math
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from omegaconf import DictConfig

from glow.commands.testing import Test
from glow.data import Simulated, Tones, Toy
from glow.errors import check_choice
from glow.evaluation.bits import UNITS, in_unit
from glow.evaluation.reverse_kl import reverse_kl_report
from glow.flows.flow import Flow
from glow.fused.products import has_fast_kernels
from glow.resilience import BestCheckpoint, NonFiniteGuard
from glow.resilience.checkpoints import last_checkpoint
from glow.resilience.lightning_internals import find_callback
from glow.resilience.run_folder import option
from glow.seeds import generator
from glow.training import Pictures, ReverseKL, Throughput
from glow.training.progress import clock

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
"""Those in which only coupling networks may be less than float32."""

WEIGHTED = 50_000
"""Samples of the flow that are weighted at the end of reverse-KL training."""


def run_summary(
    cfg: DictConfig, trainer: L.Trainer, module: Any, data: L.LightningDataModule, folder: Path, test: Test
) -> dict[str, Any]:
    """What ``results.json`` holds, after the test; the last picture is not drawn yet."""
    score = getattr(find_callback(trainer, BestCheckpoint), "best_model_score", None)
    throughput, guard = find_callback(trainer, Throughput), find_callback(trainer, NonFiniteGuard)
    return {
        "name": folder.name,
        "dataset": option(cfg, "dataset"),
        "model": option(cfg, "model"),
        "parameters": sum(p.numel() for p in module.parameters()),
        "unit": UNITS[module.unit],
        "labelled": _labelled(module, data),
        "test": {k: v if math.isfinite(v) else None for k, v in test.figures.items()},
        "test_examples": test.examples,
        "val": None if score is None else float(score),
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "skipped": guard.skipped if guard else 0,
        "train_seconds": round(throughput.seconds, 1) if throughput else None,
        "images_per_s": round(throughput.mean, 1) if throughput else None,
        "checkpoint": test.checkpoint and relative_path(test.checkpoint, folder),
        "picture": None,
        **reference_figures(module, data),
        "seed": cfg.seed,
        "device": device_name(trainer),
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "command": " ".join(["python", *sys.argv]),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "torchvision", "lightning", "hydra-core", "numpy")},
    }


def draw_final(trainer: L.Trainer, module: Any, folder: Path) -> str | None:
    """Draw the last picture, where the callback ``Pictures`` is on; its path below the folder."""
    pictures = find_callback(trainer, Pictures)
    drawn: Path | None = None
    if pictures is not None:
        module.to(trainer.strategy.root_device).eval()
        drawn = pictures.draw_final(trainer, module)
    for logger in trainer.loggers:
        logger.finalize("success")
    return None if drawn is None else relative_path(drawn, folder)


def relative_path(path: Path, folder: Path) -> str:
    """The path as seen from the folder; as it is if it lies elsewhere."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def print_start(
    cfg: DictConfig, module: Any, trainer: L.Trainer, folder: Path, checkpoint: Path | None
) -> None:
    """One line, of the main process: the model, the data, the device, and which run it is."""
    if trainer.is_global_zero:
        parameters = sum(p.numel() for p in module.parameters())
        devices = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
        print(
            f"{option(cfg, 'model')} ({parameters / 1e6:,.2f} M parameters) on {option(cfg, 'dataset')}, "
            f"{devices}{device_name(trainer)}, {trainer.precision}; "
            f"{f'continuing {checkpoint}' if checkpoint else f'new run in {folder}'}",
            flush=True,
        )


def print_stop(cfg: DictConfig, trainer: L.Trainer) -> None:
    """How to continue a run that a signal stopped."""
    if not trainer.is_global_zero:
        return
    name = (
        Path(cfg.run_dir).relative_to(cfg.output_dir)
        if Path(cfg.run_dir).is_relative_to(cfg.output_dir)
        else None
    )
    how = "repeat the command" + ("" if cfg.resume or name is None else f" with name={name} resume=true")
    kept = last_checkpoint(trainer)
    print(
        f"stopped at step {trainer.global_step}; {f'to continue, {how}' if kept else 'nothing was kept'}",
        flush=True,
    )


def _labelled(module: Any, data: L.LightningDataModule) -> bool:
    """Whether the test's figures are those given the labels."""
    tested = getattr(data, "examples", {}).get("test")
    return bool(module.flow.classes) and (tested is None or tested.y is not None)


def check_precision(trainer: L.Trainer) -> None:
    """Refuse precisions that would reach the flow algebra; warn where a CPU has no bf16 arithmetic."""
    precision = str(trainer.precision)
    check_choice("trainer.precision", precision, PRECISIONS)
    on_cpu = trainer.strategy.root_device.type == "cpu"
    if on_cpu and precision.endswith("-mixed") and not has_fast_kernels(torch.bfloat16):
        rank_zero_warn(
            f"trainer.precision={precision}: this CPU has no bf16 arithmetic, so that a step takes several "
            "times as long as with trainer.precision=32-true"
        )


def print_report(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Print the figures of ``results.json`` and what lies where in the folder; gives the results back."""

    def figure(kind: str) -> str:
        value = results["test"][kind]
        return f"{value:.4f} {results['unit']}" if value is not None else "not finite"

    kinds = {"ema": "with averaged weights", "raw": "with raw weights"}
    test = ", ".join(f"{figure(k)} {kinds[k]}" for k in kinds if k in results["test"]) or "not tested"
    seconds = results["train_seconds"]
    print(f"done: {results['steps']:,} steps" + (f" in {clock(seconds)} of training" if seconds else ""))
    if results.get("skipped"):
        print(f"skipped: {results['skipped']:,} of these steps, whose loss or gradient was not finite")
    given = ", given their labels" if results.get("labelled") else ""
    print(f"test: {test} ({results['test_examples']:,} examples{given})")
    if "true_nll" in results:
        print(f"truth: {results['true_nll']:.4f} {results['unit']}, the entropy of the test data")
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
    return results


def reference_figures(module: Any, data: L.LightningDataModule) -> dict[str, Any]:
    """What is known of the density: the entropy of the test data in the figure's unit, and the figures of training on its formula."""
    figures: dict[str, Any] = {}
    if isinstance(module, ReverseKL):
        assert isinstance(module.flow, Flow)
        source = generator("cpu", "weights", module.seed)
        figures["reverse_kl"] = reverse_kl_report(module.flow, module.density, WEIGHTED, source)
    if module.unit != "nelbo" and isinstance(data, (Toy, Simulated, Tones)) and "test" in data.examples:
        truth = data.true_nll(*data.arrays("test"))
        figures |= {} if truth is None else {"true_nll": in_unit(truth, module.flow)}
    return figures


def device_name(trainer: L.Trainer) -> str:
    """The card's name, or ``cpu``."""
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


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
