"""Hydra mains whose errors are sentences."""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from glow.errors import TrainingError, UsageError, nearest

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).resolve().parents[2] / "conf"

ELSEWHERE = {
    "ckpt_path": "repeating a run's command continues it (resume=true)",
    "on_nonfinite": "it is resilience.callbacks.nonfinite.action",
    "max_skipped": "it is resilience.callbacks.nonfinite.max_skipped",
    "optimizer.decay": "it is an option of schedule, as schedule=cosine",
    "optimizer.warmup_epochs": "it is schedule.warmup_epochs",
    "optimizer.name": "it is optimizer._target_, or an option, as optimizer=adamw",
    "model.family": "it is model._target_, or an option, as model=realnvp",
    "model.image_shape": "it is model.event_shape",
    "model.fast": "it is model.direction",
}
"""What people type that has another name."""


def main(command: str, config_name: str) -> None:
    """Run a command under Hydra with the command line's overrides.

    Errors that a user can mend end in one sentence on standard error: exit status 2 for a wrong setting, 1 for a training
    that diverged or ran out of disk, 130 for Ctrl-C. Anything else is a bug, or an error of the user's own class, and
    keeps its stack trace. What needs no command (``--help``, ``--info``, a typo) does not import it, which takes seconds.

    Args:
        command: the function that takes the composed configuration, as ``MODULE:NAME``.
        config_name: the configuration in ``conf`` that it starts from.
    """
    try:
        _run(command, config_name)
    except KeyboardInterrupt:  # before training: from then on StopOnSignal has the signal
        fail("interrupted", 130)


def _run(command: str, config_name: str) -> None:
    import hydra
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that the errors can become sentences here
    warnings.formatwarning = lambda message, *where, **more: f"warning: {message}\n"
    composed = False

    def run_command(cfg: "DictConfig") -> None:
        nonlocal composed
        composed = True
        module, _, name = command.partition(":")
        try:
            getattr(import_module(module), name)(cfg)
        except UsageError as error:
            fail(str(error), 2)
        except TrainingError as error:
            fail(str(error), 1)
        except MissingMandatoryValue as error:
            fail(f"{error.full_key} is missing: set {error.full_key}=VALUE", 2)
        except OmegaConfBaseException as error:
            fail((str(error).splitlines() or [type(error).__name__])[0], 2)

    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(run_command)()
    except Exception as error:
        if composed:
            raise
        fail(" ".join(explain(error).split()), 2)


def compose(config_name: str, overrides: Sequence[str] = ()) -> "DictConfig":
    """A configuration of ``conf`` with the overrides of a command line, as ``hydra.main`` would compose it."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    inside = GlobalHydra.instance().is_initialized()  # a command, whose own configuration stays in force
    with contextlib.nullcontext() if inside else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose(config_name, list(overrides), return_hydra_config=True)
    if not inside:
        HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def fail(message: str, status: int) -> NoReturn:
    """Print ``error: message`` and exit."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def explain(error: Exception) -> str:
    """What Hydra says of a configuration that it cannot compose, with the nearest names."""
    from hydra.errors import MissingConfigException
    from omegaconf import DictConfig
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = [o.removesuffix(".yaml") for o in error.options]
        return f"{group}={option} is not one of {', '.join(options)}{nearest(option, options)}"
    cause = error.__cause__
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and isinstance(
        cause.parent_node, DictConfig
    ):
        root = cause.parent_node._get_root()
        known = set(_keys(root)) if isinstance(root, DictConfig) else set()
        key = str(cause.full_key)
        if key in ELSEWHERE:
            return f"{key} is not a setting: {ELSEWHERE[key]}"
        by_leaf = {k.rpartition(".")[2]: k for k in known}
        return f"{key} is not a setting{nearest(key, known) or nearest(by_leaf.get(key, ''), known)}"
    if match := re.match(
        r"Multiple values for (\S+)\. To override a value use 'override \S+ (.+)'", str(error)
    ):
        group, chosen = match.groups()
        return f"{group} is a group that already has an option: write {group}={chosen}, without +"
    lines = [line.strip() for line in str(error).splitlines()[:2]]
    if "Got NoneType" in str(error):  # Hydra does not say which
        lines.append(f"({', '.join(a for a in sys.argv[1:] if a.endswith('=null'))})")
    return " ".join(lines) or f"the configuration cannot be read ({type(error).__name__})"


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig, OmegaConf

    for key in map(str, config):
        yield f"{prefix}{key}"
        with contextlib.suppress(Exception):
            there = not OmegaConf.is_interpolation(config, key) and not OmegaConf.is_missing(config, key)
            if there and isinstance(config[key], DictConfig) and key != "hydra":
                yield from _keys(config[key], f"{prefix}{key}.")
