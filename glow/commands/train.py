"""``python train.py``: train a flow, test it and leave everything in one folder."""

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
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from glow.commands.run_folder import check_same, choose_folder, is_finished
from glow.data import ArrayData
from glow.errors import UsageError, check_choice, check_positive
from glow.evaluation.bits import UNITS
from glow.training import FlowModule, LastCheckpoint, Pictures, StopGracefully, Throughput
from glow.training.module import PRECISIONS
from glow.training.progress import clock

SHORT_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured, or continue a run that was stopped.

    Args:
        cfg: the composed ``conf/train.yaml``.

    Returns:
        What ``results.json`` holds.

    Raises:
        UsageError: a setting that cannot work.
        NonFiniteError: training diverged.
        SystemExit: 143 after SIGTERM, 130 after SIGINT, once the state is saved.
    """
    _check(cfg)
    folder = choose_folder(cfg)
    cfg.run_dir = str(folder)
    OmegaConf.resolve(cfg)
    resumed = check_same(folder, cfg)
    if resumed and is_finished(folder, cfg):
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
        print(f"{folder} is finished; raise trainer.max_epochs to go on or start over with resume=false")
        _say_results(results, folder)
        return results

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    data, module, trainer = _build(cfg)
    if trainer.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, folder / "config.yaml")
    last = _callback(trainer, LastCheckpoint)
    checkpoint = last.path if last and last.path.is_file() else None
    _say_start(cfg, module, trainer, folder, checkpoint)
    _fit(trainer, module, data, checkpoint)
    return _finish(cfg, trainer, module, data, folder)


def _check(cfg: DictConfig) -> None:
    check_positive("seed", cfg.seed, integer=True, zero=True)
    for key in ("resume",):
        if not isinstance(cfg[key], bool):
            raise UsageError(f"{key} must be true or false, got {cfg[key]!r}")
    check_choice("unit", cfg.unit, UNITS)
    precision = str(cfg.trainer.precision)
    cfg.trainer.precision = SHORT_PRECISIONS.get(precision, precision)
    # The others would put the flow algebra, not only its networks, in half precision.
    check_choice("trainer.precision", cfg.trainer.precision, PRECISIONS)


def _build(cfg: DictConfig) -> tuple[ArrayData, FlowModule, L.Trainer]:
    """The objects that the configuration describes."""
    data = _make("dataset", cfg.dataset, seed=cfg.seed)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    module = FlowModule(plain["model"], plain["optimizer"], cfg.seed, cfg.shift)
    if module.unit != cfg.unit:
        raise UsageError(f"model={cfg.model.name} is measured in unit={module.unit}, got unit={cfg.unit}")
    callbacks = [_make(f"callbacks.{k}", c) for k, c in (cfg.callbacks or {}).items() if c is not None]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [c for c in callbacks if not isinstance(c, L.pytorch.callbacks.ProgressBar)]
    loggers = [_make(f"logger.{k}", c) for k, c in (cfg.logger or {}).items() if c is not None]
    trainer = _make(
        "trainer",
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        default_root_dir=cfg.run_dir,
        use_distributed_sampler=False,  # our samplers count every example once
    )
    return data, module, trainer


def _make(name: str, cfg: DictConfig, **more: Any) -> Any:
    """Instantiate a node of the configuration; what it refuses is told with the node's name."""
    try:
        return instantiate(cfg, _convert_="all", **more)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UsageError):
            raise cause from None
        if isinstance(cause, (TypeError, ValueError, MisconfigurationException)):
            raise UsageError(f"{name}: {str(cause).strip()}") from cause
        raise


def _fit(trainer: L.Trainer, module: FlowModule, data: ArrayData, checkpoint: Path | None) -> None:
    stop = _callback(trainer, StopGracefully)
    try:
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        interrupted = stop is not None and stop.received is not None
        _leave(trainer, 130 if interrupted else 143)
    except SystemExit:  # Lightning's answer to a second Ctrl-C
        _leave(trainer, 130)
    except MisconfigurationException as error:
        raise UsageError(str(error)) from error


def _leave(trainer: L.Trainer, status: int) -> None:
    if trainer.is_global_zero:
        print(f"stopped at step {trainer.global_step}; repeat the command to continue", flush=True)
    sys.exit(status)


def _finish(
    cfg: DictConfig, trainer: L.Trainer, module: FlowModule, data: ArrayData, folder: Path
) -> dict[str, Any]:
    """Test the best weights, raw and averaged; draw the last pictures; write ``results.json``."""
    steps, epochs = trainer.global_step, trainer.current_epoch
    best = trainer.strategy.broadcast(_best_checkpoint(trainer))
    weights = {"raw": module.state_dict()}
    val = None
    if best is not None:
        kept = torch.load(best, map_location="cpu", weights_only=True)
        weights = {"raw": kept.get("current_model_state", kept["state_dict"])}
        if "current_model_state" in kept:
            weights["ema"] = kept["state_dict"]  # last, so that the module keeps them for the pictures
        callback = trainer.checkpoint_callback
        score = getattr(callback, "best_model_score", None)
        val = None if score is None else float(score)
    # On one device whose other processes have left, every test example is counted once.
    test = {}
    for kind, state in weights.items():
        module.load_state_dict(state)
        try:
            figures = trainer.test(module, data, verbose=False)
        except SIGTERMException:
            _leave(trainer, 143)
        test[kind] = figures[0].get(f"test/{module.unit}") if figures else None
    throughput = _callback(trainer, Throughput)
    results = {
        "name": folder.name,
        "dataset": cfg.dataset.name,
        "model": cfg.model.name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "unit": UNITS[module.unit],
        "test": {k: v if v is not None and math.isfinite(v) else None for k, v in test.items()},
        "test_examples": int(figures[0]["test/examples"]) if figures else 0,
        "val": val,
        "steps": steps,
        "epochs": epochs,
        "train_seconds": round(throughput.seconds, 1) if throughput else None,
        "images_per_s": round(throughput.mean, 1) if throughput else None,
        "checkpoint": best and str(Path(best).relative_to(folder.resolve())),
        "seed": cfg.seed,
        "device": _device_name(trainer),
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "command": " ".join(["python", *sys.argv]),
        "git_commit": git_commit(),
        "versions": {"python": platform.python_version()}
        | {p: version(p) for p in ("torch", "torchvision", "lightning", "hydra-core", "numpy")},
    }
    if trainer.is_global_zero:
        pictures = _callback(trainer, Pictures)
        if pictures is not None:
            module.to(trainer.strategy.root_device).eval()
            drawn = pictures.draw_final(trainer, module)
            results["picture"] = drawn and str(drawn.relative_to(folder))
        for logger in trainer.loggers:
            logger.finalize("success")
        (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        _say_results(results, folder)
    return results


def _best_checkpoint(trainer: L.Trainer) -> str | None:
    """The best checkpoint by validation, else the last one, else None."""
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    last = _callback(trainer, LastCheckpoint)
    candidates = [best, str(last.path) if last else ""]
    return next((str(Path(c).resolve()) for c in candidates if c and Path(c).is_file()), None)


def _say_start(
    cfg: DictConfig, module: FlowModule, trainer: L.Trainer, folder: Path, checkpoint: Path | None
) -> None:
    if trainer.is_global_zero:
        parameters = sum(p.numel() for p in module.parameters())
        devices = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
        print(
            f"{cfg.model.name} ({parameters / 1e6:,.2f} M parameters) on {cfg.dataset.name}, "
            f"{devices}{_device_name(trainer)}, {trainer.precision}; "
            f"{f'continuing {checkpoint}' if checkpoint else f'new run in {folder}'}",
            flush=True,
        )


def _say_results(results: dict[str, Any], folder: Path) -> None:
    def figure(kind: str) -> str:
        value = results["test"][kind]
        return f"{value:.4f} {results['unit']}" if value is not None else "not finite"

    kinds = {"ema": "with averaged weights", "raw": "with raw weights"}
    test = ", ".join(f"{figure(k)} {kinds[k]}" for k in kinds if k in results["test"])
    seconds = results["train_seconds"]
    print(f"done: {results['steps']:,} steps" + (f" in {clock(seconds)} of training" if seconds else ""))
    print(f"test: {test} ({results['test_examples']:,} examples)")
    lines = [
        ("results.json", "the figures, with seed, versions and commit"),
        (
            results.get("picture"),
            "what the model draws" + (", a row per temperature" if results["unit"] == "bits/dim" else ""),
        ),
        ("samples/", "samples during training"),
        (results["checkpoint"], "the best weights by validation; last.ckpt beside it continues the run"),
        ("metrics.csv", f"all curves, also as: tensorboard --logdir {folder.parent}"),
    ]
    print(f"everything is in {folder}:")
    for name, what in lines:
        if name and (folder / name).exists():
            print(f"  {name:<26} {what}")


def _device_name(trainer: L.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _callback(trainer: L.Trainer, kind: type) -> Any:
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
