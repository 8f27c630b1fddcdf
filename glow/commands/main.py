"""Hydra mains whose errors are sentences."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from glow.errors import TrainingError, UsageError, nearest

CONF = Path(__file__).resolve().parents[2] / "conf"

HYDRA = (
    "hydra.callbacks", "hydra.job_logging", "hydra.hydra_logging", "hydra.run.dir", "hydra.sweep.subdir",
    "hydra.output_subdir", "hydra.job.env_set", "hydra.job.env_copy", "hydra.job.chdir",
)  # fmt: skip
"""What Hydra obeys before a command begins: code that it runs, files that it writes, variables that it sets."""

# Lightning's advice that does not hold here, by the beginning of its words.
NOISE = (
    "The 'train_dataloader' does not have many workers",  # data is in memory; workers would copy it
    "The 'val_dataloader' does not have many workers",
    "The 'test_dataloader' does not have many workers",
    "Checkpoint directory",  # it is not empty because the run is resumed
    "Experiment logs directory",  # AppendingCSVLogger keeps the files
    "The dirpath has changed",
    "You're using the WeightAveraging callback, but",  # the test evaluates both kinds of weights itself
    "The number of training batches",  # fewer than log_every_n_steps: the epoch's figures are logged
    "GPU available but not used",
    "The `srun` command is available on your system but is not used",  # nor need it be
    "You're resuming from a checkpoint that ended before the epoch ended",  # our sampler continues there
    "It is recommended to use `self.log('train/",  # the metric is already the mean over devices
    "`ModelCheckpoint(monitor=",  # a run that is stopped before its first validation
    "`isinstance(treespec, LeafSpec)` is deprecated",  # Lightning 2.6 on torch 2.11
)


def main(command: Callable[[DictConfig], Any], config_name: str) -> None:
    """Run a command under Hydra with the command line's overrides.

    Errors that a user can mend end in one sentence on standard error: exit status 2 for a wrong setting,
    1 for a training that diverged or ran out of disk. Anything else is a bug and keeps its stack trace.

    Args:
        command: takes the composed configuration.
        config_name: the configuration in ``conf`` that it starts from.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that the errors can be told here
    for beginning in NOISE:
        warnings.filterwarnings("ignore", re.escape(beginning))
    warnings.formatwarning = lambda message, *where, **more: f"warning: {message}\n"
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    composed = False

    def told(cfg: DictConfig) -> None:
        nonlocal composed
        composed = True
        try:
            command(cfg)
        except UsageError as error:
            fail(str(error), 2)
        except TrainingError as error:
            fail(str(error), 1)
        except MissingMandatoryValue as error:
            fail(f"{error.full_key} is missing: set {error.full_key}=VALUE", 2)
        except OmegaConfBaseException as error:
            fail((str(error).splitlines() or [type(error).__name__])[0], 2)
        except RecursionError:
            fail(
                "the configuration refers to itself: a value ${...} holds, or is part of, what it stands for",
                2,
            )
        except MemoryError as error:
            fail(f"there is not enough memory ({error}): take smaller numbers", 1)

    try:
        refuse_hydra(config_name, sys.argv[1:])
    except UsageError as error:
        fail(str(error), 2)
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(told)()
    except Exception as error:
        if composed:
            raise
        fail(" ".join(explain(error, config_name, sys.argv[1:]).split()), 2)


def refuse_hydra(config_name: str, arguments: Sequence[str]) -> None:
    """Refuse what makes Hydra itself run code or write files before a command begins, from a stranger's file above all.

    Raises:
        UsageError: the configuration has another node of ``HYDRA`` than ours.
    """
    given = [a for a in arguments if not a.startswith("-")]
    for flag, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, _, value = flag.partition("=")
        if name in ("--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun"):
            raise UsageError(f"{name} is not accepted: --config-dir adds a folder of your own configurations")
        if name in ("--config-dir", "-cd"):
            given = [a for a in given if a != following or value]
            given.append(f"hydra.searchpath=[{value or following}]")
    try:
        parsed = OverridesParser.create().parse_overrides(given)
    except Exception:
        return  # Hydra will say the same
    plain = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    sweeps = [
        (o.get_key_element(), v) for o in parsed if o.is_sweep_override() for v in o.sweep_string_iterator()
    ]
    composed = []
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for overrides in ([], plain, *([*plain, f"{key}={value}"] for key, value in sweeps)):
            with contextlib.suppress(Exception):  # Hydra will say the same
                composed.append(hydra.compose(config_name, overrides, return_hydra_config=True))
    for cfg in composed[1:]:
        for key in HYDRA:
            there, here = (
                OmegaConf.to_container(OmegaConf.create({"x": OmegaConf.select(c.copy(), key)}))
                for c in (cfg, composed[0])
            )
            if there != here:
                raise UsageError(
                    f"{key} is not accepted: output_dir, name and logger say what is written, and Hydra runs nothing of its own"
                )


def compose(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A configuration of ``conf`` with the overrides of a command line."""
    with contextlib.ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():  # it is inside a command
            stack.enter_context(hydra.initialize_config_dir(str(CONF), version_base="1.3"))
        return hydra.compose(config_name, list(overrides))


def fail(message: str, status: int) -> None:
    """Print ``error: message`` and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception, config_name: str, arguments: list[str]) -> str:
    """Say which override does not fit and which names are near; Hydra's own words if it is none of them."""
    groups = {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in CONF.iterdir() if d.is_dir()}
    overrides = [a.lstrip("+~").partition("=") for a in arguments if "=" in a and not a.startswith("-")]
    usable = []
    for key, _, value in overrides:
        group = key.partition("@")[0]
        if group in groups and value == "null" and group not in ("experiment", "debug"):
            return f"{group} cannot be null; choose one of {', '.join(groups[group])}"
        options = [v for v in value.strip("[]").split(",") if v not in ("null", "")]
        if group in groups and (wrong := [v for v in options if v not in groups[group]]):
            return f"{group}={wrong[0]} is not one of {', '.join(groups[group])}{nearest(wrong[0], groups[group])}"
        if group in groups and len(options) == 1:
            usable.append(f"{key}={value}")
    GlobalHydra.instance().clear()
    known: set[str] = set()
    with contextlib.suppress(Exception):  # it is a file that cannot be read
        known = set(_keys(compose(config_name, usable))) | set(groups)
    for key, _, _ in overrides if known else ():
        if key not in known and not key.startswith("hydra"):
            leaf = {k.rpartition(".")[2]: k for k in known}
            hint = nearest(key, known) or nearest(leaf.get(key, ""), known)
            return f"{key} is not a setting{hint}"
    said = " ".join(line.strip() for line in str(error).splitlines()[:2])
    return said or f"the configuration cannot be read ({type(error).__name__})"


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, config):
        yield f"{prefix}{key}"
        if not OmegaConf.is_interpolation(config, key) and not OmegaConf.is_missing(config, key):
            value = config[key]
            if isinstance(value, DictConfig):
                yield from _keys(value, f"{prefix}{key}.")
