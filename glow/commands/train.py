"""``python train.py``: train a flow, test it and leave everything in one folder."""

from __future__ import annotations

import json
import math
import pickle
import platform
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glow.bijections.products import mkldnn_has
from glow.commands.allocator import keep_freed_memory
from glow.commands.launch import meet_anew
from glow.commands.lock import locked
from glow.commands.run_folder import check_same, choose_folder, is_finished, open_folder
from glow.commands.targets import check_folders, check_targets
from glow.data import ArrayData, Toy
from glow.errors import UsageError, check_bool, check_choice, check_positive
from glow.evaluation.bits import UNITS
from glow.evaluation.reverse_kl import reverse_kl_report
from glow.flow import Flow
from glow.saved import OTHER_VERSION, read
from glow.seeds import generator
from glow.training import (
    EMA,
    BestCheckpoint,
    FlowModule,
    LastCheckpoint,
    Pictures,
    StopGracefully,
    Throughput,
)
from glow.training.checkpoints import last_checkpoint
from glow.training.module import PRECISIONS
from glow.training.progress import clock
from glow.training.storage import DurableCheckpointIO, replace, told_when_full

SHORT_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}

WEIGHTED = 50_000
"""Samples of the flow that are weighted at the end of reverse-KL training."""

PACKAGE = Path(__file__).resolve().parents[1]

ABSENT = "(absent)"
NEEDED = (
    "dataset._target_", "dataset.name", "model.name", "objective", "unit", "shift", "compile", "on_nonfinite",
    "max_skipped", "trainer.precision", "trainer.enable_progress_bar", "trainer.limit_train_batches",
)  # fmt: skip
"""Settings that a file may not leave out, or a ``~`` take away."""

MOST_DEVICES = 1_024
"""Of one machine."""

SMALLEST = {
    "trainer.max_epochs": -1,
    "trainer.min_epochs": 0,
    "trainer.max_steps": -1,
    "trainer.min_steps": 0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 0,
    "trainer.num_nodes": 1,
}
"""The smallest values of the integers that Lightning does not check, or not with the setting's name."""


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured, or continue a run that was stopped.

    Args:
        cfg: the composed ``conf/train.yaml``.

    Returns:
        What ``results.json`` holds.

    Raises:
        UsageError: a setting that cannot work.
        NonFiniteError: training diverged.
        SystemExit: once the state is saved, 128 and the signal's number: 143 after SIGTERM, 130 after SIGINT (Ctrl-C),
            138 after SIGUSR1.
    """
    _check(cfg)
    folder = choose_folder(cfg)
    cfg.run_dir = str(folder)
    OmegaConf.resolve(cfg)
    plain: Any = OmegaConf.to_container(cfg)
    check_targets(plain)
    check_folders(plain, cfg.run_dir)
    if check_same(folder, cfg) and is_finished(folder, cfg):
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
        print(f"{folder} is finished; raise its trainer.max_* to go on, or start over with resume=false")
        _say_results(results, folder)
        return results

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.backends.cudnn.allow_tf32 = False  # float32 means IEEE; bf16-mixed is the faster choice
    keep_freed_memory()
    data, module, trainer = _build(cfg)
    with locked(folder) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            check_same(folder, cfg)  # once more: it may have been another's until now
            open_folder(folder, cfg)
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if on_cpu and cfg.trainer.precision in ("bf16-mixed", "16-mixed") and not mkldnn_has(torch.bfloat16):
            rank_zero_warn(
                f"trainer.precision={cfg.trainer.precision}: this CPU has no bf16 arithmetic, so that a step takes several "
                "times as long as with trainer.precision=32-true"
            )
        last = _callback(trainer, LastCheckpoint)
        checkpoint = last.newest_whole() if last else None
        _say_start(cfg, module, trainer, folder, checkpoint)
        if checkpoint is not None:
            module.flow.initialized = True  # by what the checkpoint holds
        meet_anew()
        _fit(cfg, trainer, module, data, checkpoint)
        with told_when_full(folder):
            return _finish(cfg, trainer, module, data, folder)


def _check(cfg: DictConfig) -> None:
    for key in ("dataset", "model", "optimizer", "trainer"):
        if not isinstance(cfg.get(key), DictConfig):
            raise UsageError(f"{key} must be a group of settings, got {cfg.get(key)!r}")
    for key in ("callbacks", "logger"):
        if not isinstance(cfg.get(key), (DictConfig, type(None))):
            raise UsageError(f"{key} must be a group of settings or null, got {cfg.get(key)!r}")
    for key in NEEDED:
        if OmegaConf.select(cfg, key, default=ABSENT) == ABSENT:
            raise UsageError(f"{key} is missing: set {key}=VALUE")
    check_positive("seed", cfg.seed, integer=True, zero=True)
    if cfg.seed >= 2**32:
        raise UsageError(f"seed must be below 2^32, got {cfg.seed}")
    for key in (
        "resume",
        "compile",
        "trainer.enable_progress_bar",
        "trainer.detect_anomaly",
        "trainer.inference_mode",
    ):
        check_bool(key, OmegaConf.select(cfg, key))
    check_choice("unit", cfg.unit, UNITS)
    if cfg.dataset.get("classes") is not None:
        check_positive("dataset.classes", cfg.dataset.classes, integer=True)
    precision = str(cfg.trainer.precision)
    cfg.trainer.precision = SHORT_PRECISIONS.get(precision, precision)
    # The others would put the flow algebra, not only its networks, in half precision.
    check_choice("trainer.precision", cfg.trainer.precision, PRECISIONS)
    for key, smallest in SMALLEST.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < smallest):
            raise UsageError(f"{key} must be an integer of at least {smallest}, got {value!r}")
    devices = OmegaConf.select(cfg, "trainer.devices")
    if isinstance(devices, int) and devices > MOST_DEVICES:
        raise UsageError(f"trainer.devices must be at most {MOST_DEVICES:,}, got {devices}")
    if cfg.trainer.limit_train_batches == 0:
        raise UsageError("trainer.limit_train_batches must be above zero: there would be nothing to train on")


def _build(cfg: DictConfig) -> tuple[ArrayData, FlowModule, L.Trainer]:
    """The objects that the configuration describes."""
    data = _make("dataset", cfg.dataset, seed=cfg.seed)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    with _told("model"):
        module = FlowModule(
            plain["model"],
            plain["optimizer"],
            cfg.seed,
            cfg.shift,
            plain["dataset"],
            plain["objective"],
            cfg.on_nonfinite,
            cfg.max_skipped,
        )
    if cfg.compile:
        module.flow.compile()
    if module.unit != cfg.unit:
        raise UsageError(f"model={cfg.model.name} is measured in unit={module.unit}, got unit={cfg.unit}")
    callbacks = [_make(f"callbacks.{k}", c) for k, c in (cfg.get("callbacks") or {}).items() if c is not None]
    if not cfg.trainer.enable_progress_bar:
        callbacks = [c for c in callbacks if not isinstance(c, L.pytorch.callbacks.ProgressBar)]
    loggers = [_make(f"logger.{k}", c) for k, c in (cfg.get("logger") or {}).items() if c is not None]
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, L.pytorch.callbacks.LearningRateMonitor)]
    trainer = _make(
        "trainer",
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        enable_checkpointing=any(isinstance(c, L.pytorch.callbacks.Checkpoint) for c in callbacks),
        default_root_dir=cfg.run_dir,
        use_distributed_sampler=False,  # our samplers count every example once
        plugins=_plugins(),
    )
    return data, module, trainer


def _plugins() -> list[CheckpointIO | ClusterEnvironment]:
    """Checkpoints that are whole, and Slurm without Lightning's own requeueing, which would write others."""
    slurm = not TorchElasticEnvironment.detect() and SLURMEnvironment.detect()
    return [DurableCheckpointIO(), *([SLURMEnvironment(auto_requeue=False)] if slurm else [])]


def _make(name: str, cfg: DictConfig, **more: Any) -> Any:
    """Instantiate a node of the configuration; what it refuses is told with the node's name."""
    if not isinstance(cfg, DictConfig) or "_target_" not in cfg:
        raise UsageError(f"{name} must be a group of settings with a _target_, or null, got {cfg!r}")
    with _told(name):
        return instantiate(cfg, _convert_="all", **more)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """What refuses its settings inside is told with the name of the node that they are from."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, (UsageError, OmegaConfBaseException)):
            raise cause from None
        # Whatever a library makes of wrong arguments; of ours, what Python itself says of them.
        ours = Path(traceback.extract_tb(cause.__traceback__)[-1].filename).is_relative_to(PACKAGE)
        if ours and not isinstance(cause, (TypeError, ValueError, LookupError)):
            raise
        said = " ".join(str(cause).split()) or type(cause).__name__
        raise UsageError(f"{name}: {said}") from cause


def _fit(
    cfg: DictConfig, trainer: L.Trainer, module: FlowModule, data: ArrayData, checkpoint: Path | None
) -> None:
    try:
        with told_when_full(Path(cfg.run_dir)):
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        _leave(cfg, trainer)
    except SystemExit:  # Lightning's answer to a second Ctrl-C
        sys.exit(130)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{checkpoint} asks to run code or is damaged; it was not opened: start over with resume=false"
        ) from error
    except RuntimeError as error:
        if checkpoint is not None and "Error(s) in loading state_dict" in str(error):
            raise UsageError(f"{checkpoint} {OTHER_VERSION}: start over with resume=false") from error
        raise
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        # What Lightning itself refuses is a setting of the trainer; the rest are errors of ours.
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, UsageError) or "lightning" not in Path(frames[-1].filename).parts:
            raise
        raise UsageError(f"trainer: {str(error).strip()}") from error


def _leave(cfg: DictConfig, trainer: L.Trainer) -> None:
    stop = _callback(trainer, StopGracefully)
    received = stop.received if stop is not None else None
    if trainer.is_global_zero:
        kept = last_checkpoint(trainer)
        name = Path(cfg.run_dir).relative_to(cfg.output_dir)
        how = "repeat the command" + ("" if cfg.resume else f" with name={name} resume=true")
        print(
            f"stopped at step {trainer.global_step}; "
            + (f"to continue, {how}" if kept else "nothing was kept"),
            flush=True,
        )
    sys.exit(128 + (received or signal.SIGTERM))


def _finish(
    cfg: DictConfig, trainer: L.Trainer, module: FlowModule, data: ArrayData, folder: Path
) -> dict[str, Any]:
    """Test the best weights, raw and averaged; write ``results.json``; draw the last picture."""
    stop = _callback(trainer, StopGracefully)
    stopped = stop is not None and stop.received is not None  # during the last validation
    if trainer.strategy.reduce_boolean_decision(stopped, all=False):
        _leave(cfg, trainer)
    steps, epochs = trainer.global_step, trainer.current_epoch
    best = trainer.strategy.broadcast(_best_checkpoint(trainer))
    averaged = _callback(trainer, EMA) is not None
    weights = {"ema" if averaged else "raw": module.state_dict()}  # what a fit leaves in the module
    if best is not None:
        kept = torch.load(best, map_location="cpu", weights_only=True)
        weights = {"raw": kept.get("current_model_state", kept["state_dict"])}
        if averaged:
            weights["ema"] = kept["state_dict"]  # last, so that the module keeps them for the picture
    score = getattr(_callback(trainer, BestCheckpoint), "best_model_score", None)
    test, examples = {}, 0
    for kind, state in weights.items():
        module.load_state_dict(state)
        module.test_name = "test_raw" if kind == "raw" and averaged else "test"
        try:
            figures = trainer.test(module, data, verbose=False)
        except SIGTERMException:
            _leave(cfg, trainer)
        except SystemExit:  # Ctrl-C
            sys.exit(130)
        if figures:
            test[kind] = figures[0][f"{module.test_name}/{module.unit}"]
            examples = int(figures[0][f"{module.test_name}/examples"])
    throughput = _callback(trainer, Throughput)
    results = {
        "name": folder.name,
        "dataset": cfg.dataset.name,
        "model": cfg.model.name,
        "parameters": sum(p.numel() for p in module.parameters()),
        "unit": UNITS[module.unit],
        "test": {k: v if math.isfinite(v) else None for k, v in test.items()},
        "test_examples": examples,
        "val": None if score is None else float(score),
        "steps": steps,
        "epochs": epochs,
        "skipped": module.skipped,
        "train_seconds": round(throughput.seconds, 1) if throughput else None,
        "images_per_s": round(throughput.mean, 1) if throughput else None,
        "checkpoint": best and _inside(Path(best), folder),
        "picture": None,
        **_beside_the_truth(module, data),
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
        _write_results(results, folder)
        pictures = _callback(trainer, Pictures)
        if pictures is not None:
            module.to(trainer.strategy.root_device).eval()
            drawn = pictures.draw_final(trainer, module)
            results["picture"] = drawn and _inside(drawn, folder)
            _write_results(results, folder)
        for logger in trainer.loggers:
            logger.finalize("success")
        _say_results(results, folder)
    return results


def _beside_the_truth(module: FlowModule, data: ArrayData) -> dict[str, Any]:
    """What is known of a density in the plane: the entropy of the test points, or the figures of reverse-KL training."""
    if module.target is not None:
        assert isinstance(module.flow, Flow)
        source = generator("cpu", "weights", module.seed)
        return {"reverse_kl": reverse_kl_report(module.flow, module.target, WEIGHTED, source)}
    truth = data.true_nll(data.splits["test"][0]) if isinstance(data, Toy) and "test" in data.splits else None
    return {} if truth is None else {"true_nll": truth}


def _inside(path: Path, folder: Path) -> str:
    """The path as seen from the folder; as it is if it lies elsewhere."""
    path, folder = path.resolve(), folder.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _write_results(results: dict[str, Any], folder: Path) -> None:
    replace(folder / "results.json", (json.dumps(results, indent=2) + "\n").encode())


def _best_checkpoint(trainer: L.Trainer) -> str | None:
    """The best checkpoint by validation if it is whole, else the last one, else None."""
    best = getattr(_callback(trainer, BestCheckpoint), "best_model_path", "")
    for candidate in (best, str(last_checkpoint(trainer) or "")):
        if candidate and Path(candidate).is_file():
            try:
                return str(read(Path(candidate)).path.resolve())
            except UsageError as error:
                rank_zero_warn(f"{error}; it is not tested")
    return None


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
