"""What a configuration may ask for: which classes, and where they write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path, PurePath
from typing import Any

import lightning as L
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

from glow.data import ArrayData
from glow.errors import UsageError

PACKAGES = ("glow", "lightning")
"""Where a ``_target_`` may lie. What lies elsewhere is not even imported."""

KINDS: dict[str, type] = {
    "dataset": ArrayData, "trainer": L.Trainer, "callbacks.*": L.Callback, "logger.*": Logger,
}  # fmt: skip
"""What a node of the configuration makes: a subclass of this."""

PARTS = (Strategy, Accelerator, Profiler, Precision, CheckpointIO, LayerSync, ClusterEnvironment)
"""What may be made for an argument of these."""

FUNCTIONS = ("glow.training.progress",)
"""All others could be any function at all."""

FOLDERS = ("dirpath", "save_dir", "dir", "log_dir", "root_dir", "default_root_dir")
"""Arguments that are folders to write into."""


def check_targets(config: Mapping[str, Any]) -> None:
    """Refuse what is not one of the classes that a node can be, so that a stranger's configuration cannot run code.

    Args:
        config: the whole configuration, resolved, of plain values.

    Raises:
        UsageError: another ``_target_``, or other instructions for Hydra.
    """
    for path, node in _nodes(config, ()):
        name = ".".join(path)
        for key in node:
            if str(key) in ("_args_", "_partial_", "_recursive_", "_convert_", "_mode_"):
                raise UsageError(f"{name}.{key} is not accepted: give settings by their names")
        if "_target_" not in node:
            continue
        target = node["_target_"]
        pattern = path[0] if len(path) == 1 else f"{path[0]}.*" if path else ""
        inside = path and path[0] in ("trainer", "callbacks", "logger")
        kinds = (KINDS[pattern],) if len(path) < 3 and pattern in KINDS else PARTS if inside else ()
        if not kinds:
            raise UsageError(f"{name}._target_={target} is refused: nothing is made of {name or 'it'}")
        wanted = " or ".join(k.__name__ for k in kinds)
        refused = UsageError(
            f"{name}._target_={target} is refused: it must be a class of {' or '.join(PACKAGES)}, a {wanted}"
        )
        if not isinstance(target, str) or target.partition(".")[0] not in PACKAGES:
            raise refused
        found = _locate(target)
        if found is None:
            raise UsageError(f"{name}._target_={target} is not there")
        # By attributes a path leads out of its package: lightning.pytorch.trainer.trainer.os.system.
        if target not in FUNCTIONS and not (
            isinstance(found, type)
            and issubclass(found, kinds)
            and found.__module__.partition(".")[0] in PACKAGES
        ):
            raise refused


def check_folders(config: Mapping[str, Any], run_dir: str) -> None:
    """Refuse paths by which callbacks, loggers or the trainer would write outside the run's folder.

    Raises:
        UsageError: naming the setting.
    """
    inside = Path(run_dir).resolve()
    for group in ("callbacks", "logger", "trainer"):
        for name, value in _leaves(config.get(group), group):
            folder = name.rpartition(".")[2] in FOLDERS
            if not isinstance(value, str):
                good = not folder
            else:
                path = PurePath(value)
                written = folder or path.is_absolute()
                # Other names are below some folder, so that nothing may lead out of that.
                good = "\0" not in value and (
                    Path(path).resolve().is_relative_to(inside) if written else ".." not in path.parts
                )
            if not good:
                raise UsageError(f"{name} must lie inside the run's folder, {run_dir}, got {value!r}")


def _nodes(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        yield path, value
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, below in items:
        yield from _nodes(below, (*path, str(key)))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Mapping, list)):
        for key, below in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(below, f"{name}.{key}")
    else:
        yield name, value


def _locate(target: str) -> Any:
    """The object at a dotted path, or None."""
    parts = target.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: Any = import_module(".".join(parts[:n]))
        except (ImportError, ValueError):
            continue
        for part in parts[n:]:
            found = getattr(found, part, None)
        return found
    return None
