"""A run's folder: where it is, what it holds, and whether a command may continue it."""

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from glow.errors import UsageError
from glow.resilience.checkpoints import LastCheckpoint
from glow.resilience.environments import launch_id
from glow.resilience.lightning_internals import find_callback
from glow.resilience.lock import HOLDER, LOCK, locked
from glow.resilience.storage import replace

CHANGEABLE = (
    "name", "resume", "run_dir", "output_dir", "fit.max_epochs", "fit.max_steps", "fit.max_time", "fit.pictures_every",
    "trainer.max_epochs", "trainer.max_steps", "trainer.max_time", "trainer.accelerator", "trainer.strategy",
    "trainer.devices", "trainer.num_nodes", "trainer.enable_progress_bar", "trainer.profiler", "callbacks.progress",
    "callbacks.estimate", "callbacks.pictures", "dataset.cache", "compile", "resilience", "model.recompute",
    "model.kernels",
)  # fmt: skip
"""Settings that a continued run may have changed: how long, where, on what and how it runs. Besides these, the paths
that follow the run's folder, and ``dataset.root`` where it only says where a known dataset lies."""

LIMITS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")
"""Settings that decide when a run is done."""

LAUNCH = ".launch"
"""The file in a folder made with ``resume=false`` that names the launch by torchrun or srun that made it."""

FOLDER_TIMEOUT = 300
"""Seconds that other processes wait for the folder; file systems of clusters show new files late."""


class RunFolder:
    """The folder of the run that a configuration describes; ``run_dir`` of the configuration is set to it.

    Args:
        cfg: the composed ``conf/train.yaml``; its interpolations are resolved.

    Raises:
        UsageError: the name cannot be a folder's, or the folder holds a run of another configuration; the message says
            which keys differ.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg = cfg
        self.path = choose_folder(cfg)
        cfg.run_dir = str(self.path)
        OmegaConf.resolve(cfg)
        self.finished = holds_run_of(self.path, cfg) and _is_finished(self.path, cfg)
        """Whether the run reached its end, and the end has not been moved since."""

    @contextlib.contextmanager
    def lock(self, trainer: L.Trainer) -> Iterator[None]:
        """Hold the folder from the main process, with this configuration in it.

        Lightning has not started other processes yet, so that a refusal leaves none behind. A folder that was made for a
        run that never trained a step is removed.
        """
        if not trainer.is_global_zero:
            yield
            return
        new = not self.path.exists() or not any(f.name != LAUNCH for f in self.path.iterdir())
        with locked(self.path):
            holds_run_of(self.path, self.cfg)  # refuses once more: it may have been another's until now
            self._open()
            try:
                yield
            except BaseException:
                if new and trainer.global_step == 0:
                    shutil.rmtree(self.path, ignore_errors=True)
                raise

    def checkpoint(self, trainer: L.Trainer) -> Path | None:
        """The checkpoint to continue from; None for a new run."""
        last = find_callback(trainer, LastCheckpoint)
        if last is not None:
            return last.latest_valid()
        path = self.path / "checkpoints/last.ckpt"  # where resilience=none keeps it
        return path if path.is_file() else None

    def results(self) -> dict[str, Any]:
        """What ``results.json`` holds."""
        return json.loads((self.path / "results.json").read_text())

    def write(self, results: dict[str, Any]) -> None:
        """Write ``results.json``, whole or not at all."""
        replace(self.path / "results.json", (json.dumps(results, indent=2) + "\n").encode())

    def _open(self) -> None:
        """Write ``config.yaml``; results of a run that is going to change are removed."""
        try:
            # In this order: with results, the configuration says what they are of.
            (self.path / "results.json").unlink(missing_ok=True)
            if not (self.path / "checkpoints").is_dir():
                (self.path / "metrics.csv").unlink(missing_ok=True)
            replace(self.path / "config.yaml", OmegaConf.to_yaml(self.cfg).encode())
        except OSError as error:
            raise UsageError(
                f"output_dir={self.cfg.output_dir}: cannot write {self.path} ({error})"
            ) from error


def option(cfg: DictConfig, group: str) -> str:
    """The option that a group chose; where Hydra is not at work, the last part of the node's ``_target_``."""
    if HydraConfig.initialized():
        return str(HydraConfig.get().runtime.choices[group])
    return str(cfg[group]["_target_"]).rpartition(".")[2].lower()


def run_name(cfg: DictConfig) -> str:
    """``name``, or DATASET-MODEL; a job of a multirun adds its own overrides."""
    name = f"{option(cfg, 'dataset')}-{option(cfg, 'model')}" if cfg.name is None else str(cfg.name)
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

    ``hydra.run.dir=DIR`` and ``hydra.sweep.subdir=DIR`` choose the folder itself. All processes of a run come to the same
    one. So does a launch that torchrun or Slurm starts again: it goes on.

    Raises:
        UsageError: the processes have no way to agree, or do not see the same ``output_dir``.
    """
    if folder := _folder_of_hydra():
        return folder
    base = Path(cfg.output_dir) / run_name(cfg)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        base = Path(HydraConfig.get().sweep.dir) / run_name(cfg)
    if cfg.resume:
        return base
    launch, rank = launch_id()
    if launch is not None:
        return folder_of_launch(launch, rank, base)
    if cfg.trainer.num_nodes > 1:
        raise UsageError("resume=false on several nodes needs torchrun or srun; else give a new name=")
    # Lightning starts the other processes of a machine by the same command: they follow the first.
    if rank != 0 and (chosen := os.environ.get("GLOW_RUN_FOLDER")):
        return Path(chosen)
    folder = next(f for f in _candidates(base) if not f.exists())
    os.environ["GLOW_RUN_FOLDER"] = str(folder)
    return folder


def _folder_of_hydra() -> Path | None:
    """The folder that Hydra's own settings choose; None with those of ``conf/train.yaml``, which choose none."""
    if not HydraConfig.initialized():
        return None
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        return None if hydra.sweep.subdir == "." else Path(hydra.sweep.dir) / hydra.sweep.subdir
    return None if hydra.run.dir == "." else Path(hydra.run.dir)


def _candidates(base: Path) -> Iterator[Path]:
    yield base
    for n in count(2):
        yield base.with_name(f"{base.name}-{n}")


def folder_of_launch(launch: str, rank: int, base: Path) -> Path:
    """The folder that bears this launch's name; rank 0 makes it, the others wait for it."""
    until = time.monotonic() + FOLDER_TIMEOUT
    while time.monotonic() < until:
        try:
            for folder in _candidates(base):
                if not folder.exists():
                    break
                if (file := folder / LAUNCH).is_file() and file.read_text() == launch:
                    return folder
            if rank == 0:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):  # another launch was faster
                    folder.mkdir()
                    (folder / LAUNCH).write_text(launch)
        except OSError as error:
            raise UsageError(f"output_dir={base.parent}: cannot write {folder} ({error})") from error
        if rank != 0:
            time.sleep(0.2)
    raise UsageError(
        f"output_dir={base.parent}: process {rank} waited {FOLDER_TIMEOUT} s for process 0 to make a folder there; "
        "is it the same folder on every node?"
    )


def holds_run_of(folder: Path, cfg: DictConfig) -> bool:
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
        ours = (LOCK, HOLDER, LAUNCH, file.name, f"{file.name}.new", ".hydra")
        if folder.is_dir() and any(f.name not in ours for f in folder.iterdir()):
            raise UsageError(
                f"{folder} has files but no config.yaml, so it is not a run: choose another name="
            )
        return False
    if not any((folder / "checkpoints").glob("*.ckpt")) and not (folder / "results.json").is_file():
        return False
    there, here = _flat(OmegaConf.load(file)), _flat(cfg)
    location_only = ("dataset.root",) if "kind" in cfg.dataset else ()
    differing = [
        f"{key}: {there.get(key, 'absent')} there, {here.get(key, 'absent')} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key, "absent") != here.get(key, "absent")
        and key not in location_only
        and not _changeable(key)
    ]
    if differing:
        raise UsageError(
            f"{folder} holds a run of another configuration:\n  "
            + "\n  ".join(differing)
            + "\ngive this run a name=, start over in a new folder with resume=false, or use the same settings"
        )
    return True


def _is_finished(folder: Path, cfg: DictConfig) -> bool:
    if not (folder / "results.json").is_file():
        return False
    there = OmegaConf.load(folder / "config.yaml")
    return all(OmegaConf.select(there, key) == OmegaConf.select(cfg, key) for key in LIMITS)


def _changeable(key: str) -> bool:
    follows_folder = key.endswith((".dirpath", ".save_dir"))
    return follows_folder or any(key == k or key.startswith(f"{k}.") for k in CHANGEABLE)


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    values: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
