"""From the nodes of a configuration to objects, with errors that name the node."""

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from glow.checkpoint import OTHER_VERSION
from glow.errors import UsageError

LIBRARIES = tuple(
    str(Path(p).resolve())
    for p in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), sys.base_prefix)
)
PACKAGE = str(Path(__file__).resolve().parents[1])


def make(name: str, node: Any, **more: Any) -> Any:
    """The object that a node of the configuration describes; ``more`` are arguments for it, where it takes them."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UsageError(f"{name} must be a group of settings with a _target_, or null, got {node!r}")
    if missing := sorted(OmegaConf.missing_keys(node)):
        raise UsageError(f"{missing[0]} is missing: set {missing[0]}=VALUE")
    with node_errors(name):
        taken = inspect.signature(get_object(node["_target_"])).parameters if more else {}
        anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        made = instantiate(node, _convert_="all", **{k: v for k, v in more.items() if anything or k in taken})
    return Factory(name, made) if isinstance(made, partial) else made


@dataclass(frozen=True)
class Factory:
    """What a node with ``_partial_`` comes to: called later, with errors that name the node."""

    name: str
    factory: partial[Any]

    def __call__(self, *args: Any, **options: Any) -> Any:
        with node_errors(self.name):
            return self.factory(*args, **options)

    @property
    def keywords(self) -> dict[str, Any]:
        """The arguments that the node sets."""
        return self.factory.keywords

    @property
    def __signature__(self) -> inspect.Signature:
        # Of the function itself: a partial with an argument that this lacks has none, and the call says which it is.
        return inspect.signature(self.factory.func)


def make_each(name: str, nodes: Any) -> list[Any]:
    """The objects of a node's nodes; those that are null, empty, or come to None are left out."""
    if nodes is None:
        return []
    if not isinstance(nodes, DictConfig):
        raise UsageError(f"{name} must be a group of settings or null, got {nodes!r}")
    made = [make(f"{name}.{key!s}", node) for key, node in nodes.items() if node is not None and node != {}]
    return [m for m in made if m is not None]


def make_trainer(cfg: DictConfig) -> L.Trainer:
    """The trainer with its callbacks, loggers and plugins, each chosen in ``conf``."""
    resilience = cfg.resilience or {}
    callbacks = [
        *make_each("callbacks", cfg.callbacks),
        *make_each("resilience.callbacks", resilience.get("callbacks")),
    ]
    loggers = make_each("logger", cfg.logger)
    if not cfg.trainer.enable_progress_bar:
        callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    return make(
        "trainer",
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        plugins=make_each("resilience.plugins", resilience.get("plugins")),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        default_root_dir=cfg.run_dir,
        use_distributed_sampler=False,  # our samplers count every example once
    )


def make_model(node: Any) -> Any:
    """The model; a ``_target_`` inside its node is a part that it makes itself, once it knows the part's sizes.

    By Hydra, not ``glow.flows.build``: what is typed is trusted, so any class that can be imported may be named.
    """
    if isinstance(node, DictConfig):
        parts = {
            k: {"_partial_": True} for k, v in node.items() if isinstance(v, DictConfig) and "_target_" in v
        }
        node = OmegaConf.merge(OmegaConf.to_container(node), parts) if parts else node
    return make("model", node)


@contextmanager
def node_errors(name: str) -> Iterator[None]:
    """Re-raise errors of the enclosed code as UsageError, with the config node's name in front.

    What a class of the user's own raises is the user's to debug: it keeps its stack trace.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, UsageError):
            raise cause from None
        files = [str(Path(f.filename).resolve()) for f in traceback.extract_tb(cause.__traceback__)]
        if any(not f.startswith((*LIBRARIES, PACKAGE)) and Path(f).is_file() for f in files):
            raise
        if files[-1].startswith(PACKAGE) and not isinstance(cause, (TypeError, ValueError, LookupError)):
            raise
        message = " ".join(str(cause).split()) or type(cause).__name__
        raise UsageError(f"{name}: {message}") from cause


@contextmanager
def lightning_errors(checkpoint: Path | None) -> Iterator[None]:
    """Re-raise what Lightning itself refuses as UsageError: settings of the trainer or a callback, or a checkpoint whose
    weights have other names."""
    try:
        yield
    except (TypeError, ValueError, ImportError, RuntimeError, MisconfigurationException) as error:
        if checkpoint is not None and "Error(s) in loading state_dict" in str(error):
            raise UsageError(f"{checkpoint} {OTHER_VERSION}: start over with resume=false") from error
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, UsageError) or "lightning" not in Path(last).parts:
            raise
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
