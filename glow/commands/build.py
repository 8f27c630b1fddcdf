"""From a configuration to the objects that train: what it may say is checked first."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from glow.data import ArrayData
from glow.errors import UsageError, check_bool, check_choice, check_positive
from glow.evaluation.bits import UNITS
from glow.resilience.storage import DurableCheckpointIO
from glow.training import FlowModule
from glow.training.module import PRECISIONS

SHORT_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}

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


def check_settings(cfg: DictConfig) -> None:
    """What no library checks, or not with the setting's name; short names of precisions become Lightning's.

    Raises:
        UsageError: naming the setting.
    """
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


def build(cfg: DictConfig) -> tuple[ArrayData, FlowModule, L.Trainer]:
    """The objects that the configuration describes.

    Raises:
        UsageError: naming the node of the configuration that one of them refuses.
    """
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
