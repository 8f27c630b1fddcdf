"""A run's folder: where it is, what it holds, and whether a command may continue it."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from glow.errors import UsageError
from glow.resilience.environments import launch
from glow.resilience.lock import LOCK
from glow.resilience.storage import replace

MAY_DIFFER = (
    "name",
    "resume",
    "run_dir",
    "output_dir",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.enable_progress_bar",
    "trainer.profiler",
    "callbacks.progress",
    "callbacks.estimate",
    "dataset.cache",
    "compile",
    "on_nonfinite",
    "max_skipped",
    "model.recompute",
)
"""Settings that a continued run may have changed: how long, where, on what and how it runs.
Besides these, the paths that follow the run's folder, and ``dataset.root`` where it only says where a known
dataset lies."""

LIMITS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
"""Settings that decide when a run is done."""

LAUNCH = ".launch"
"""The file in a folder made with ``resume=false`` that names the launch by torchrun or srun that made it."""

WAIT = 300
"""Seconds that the other processes wait for it; file systems of clusters show new files late."""


def run_name(cfg: DictConfig) -> str:
    """``name``, or DATASET-MODEL; a job of a multirun adds its own overrides."""
    name = f"{cfg.dataset.name}-{cfg.model.name}" if cfg.name is None else str(cfg.name)
    if not re.fullmatch(r"[\w.+=,-][\w.+=, /-]*", name) or ".." in name:
        raise UsageError(f"name={name!r} is not a folder's name: use letters, digits and . _ - + =")
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        swept = sorted(HydraConfig.get().overrides.task)
        kept = [o for o in swept if o.partition("=")[0] not in ("name", "output_dir", "resume", "debug")]
        name += "-" + re.sub(r"[^\w.,=+-]", "_", ",".join(kept))
    if len(name) > 200:
        raise UsageError(f"the run's name would be {len(name)} characters long: give a shorter name=")
    return name


def choose_folder(cfg: DictConfig) -> Path:
    """``outputs/NAME``, or with ``resume=false`` the first of NAME, NAME-2, NAME-3, ... that is not there.

    All processes of a run come to the same one. So does a launch that torchrun or Slurm starts again: it goes on.

    Raises:
        UsageError: the processes have no way to agree, or do not see the same ``output_dir``.
    """
    if not isinstance(cfg.output_dir, str):
        raise UsageError(f"output_dir must be a folder, got {cfg.output_dir!r}")
    base = Path(cfg.output_dir) / run_name(cfg)
    if cfg.resume:
        return base
    name, rank = launch()
    if name is not None:
        return _folder_of(name, rank, base)
    if cfg.trainer.num_nodes > 1:
        raise UsageError("resume=false on several nodes needs torchrun or srun; else give a new name=")
    # Lightning starts the other processes of a machine by the same command: they follow the first.
    if rank != 0 and (chosen := os.environ.get("GLOW_RUN_FOLDER")):
        return Path(chosen)
    folder = next(f for f in _numbered(base) if not f.exists())
    os.environ["GLOW_RUN_FOLDER"] = str(folder)
    return folder


def _numbered(base: Path) -> Iterator[Path]:
    yield base
    for n in count(2):
        yield base.with_name(f"{base.name}-{n}")


def _folder_of(name: str, rank: int, base: Path) -> Path:
    """The folder that bears this launch's name; rank 0 makes it, the others wait for it."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        try:
            for folder in _numbered(base):
                if not folder.exists():
                    break
                if (file := folder / LAUNCH).is_file() and file.read_text() == name:
                    return folder
            if rank == 0:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):  # another launch was faster
                    folder.mkdir()
                    (folder / LAUNCH).write_text(name)
        except OSError as error:
            raise UsageError(f"output_dir={base.parent}: cannot write {folder} ({error})") from error
        if rank != 0:
            time.sleep(0.2)
    raise UsageError(
        f"output_dir={base.parent}: process {rank} waited {WAIT} s for process 0 to make a folder there; "
        "is it the same folder on every node?"
    )


def check_same(folder: Path, cfg: DictConfig) -> bool:
    """Whether the folder holds a run of this configuration that can be continued.

    A folder whose run never came to a checkpoint has nothing to continue and nothing to lose.

    Returns:
        False when there is no run yet.

    Raises:
        UsageError: it holds another configuration; the message lists the keys that differ.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        # Another process may be about to write it, or was killed when it did.
        ours = (LOCK, LAUNCH, file.name, f"{file.name}.new")
        if folder.is_dir() and any(f.name not in ours for f in folder.iterdir()):
            raise UsageError(
                f"{folder} has files but no config.yaml, so it is not a run: choose another name="
            )
        return False
    if not any((folder / "checkpoints").glob("*.ckpt")) and not (folder / "results.json").is_file():
        return False
    there = _flat(OmegaConf.load(file))
    here = _flat(cfg)
    location_only = ("dataset.root",) if "kind" in cfg.dataset else ()
    differing = [
        f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, "absent") != here.get(key, "absent")
        and key not in location_only
        and not _may_differ(key)
    ]
    if differing:
        raise UsageError(
            f"{folder} holds a run of another configuration:\n  "
            + "\n  ".join(differing)
            + "\ngive this run a name=, start over in a new folder with resume=false, or use the same settings"
        )
    return True


def is_finished(folder: Path, cfg: DictConfig) -> bool:
    """Whether the run reached its end, and the end has not been moved since."""
    if not (folder / "results.json").is_file():
        return False
    there = OmegaConf.load(folder / "config.yaml")
    return all(OmegaConf.select(there, key) == OmegaConf.select(cfg, key) for key in LIMITS)


def open_folder(folder: Path, cfg: DictConfig) -> None:
    """Write the folder's ``config.yaml``; results of a run that is going to change are removed.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        # In this order: with results, the configuration says what they are of.
        (folder / "results.json").unlink(missing_ok=True)
        if not (folder / "checkpoints").is_dir():
            (folder / "metrics.csv").unlink(missing_ok=True)
        replace(folder / "config.yaml", OmegaConf.to_yaml(cfg).encode())
    except OSError as error:
        raise UsageError(f"output_dir={cfg.output_dir}: cannot write {folder} ({error})") from error


def _may_differ(key: str) -> bool:
    follows_folder = key.endswith((".dirpath", ".save_dir"))
    return follows_folder or any(key == k or key.startswith(f"{k}.") for k in MAY_DIFFER)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    out: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
