"""From the nodes of a configuration to objects, with errors that name the node."""

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

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
    with node_errors(name):
        taken = inspect.signature(get_object(node["_target_"])).parameters if more else {}
        anything = any(p.kind is p.VAR_KEYWORD for p in taken.values())
        return instantiate(node, _convert_="all", **{k: v for k, v in more.items() if anything or k in taken})


def make_each(name: str, nodes: Any) -> list[Any]:
    """The objects of a node's nodes; those that are null, empty, or come to None are left out."""
    if nodes is None:
        return []
    if not isinstance(nodes, DictConfig):
        raise UsageError(f"{name} must be a group of settings or null, got {nodes!r}")
    made = [make(f"{name}.{key}", node) for key, node in nodes.items() if node is not None and node != {}]
    return [m for m in made if m is not None]


def make_model(node: Any) -> Any:
    """The model; a ``_target_`` inside its node is a part that it makes itself, once it knows the part's sizes."""
    if isinstance(node, DictConfig):
        parts = {
            k: {"_partial_": True} for k, v in node.items() if isinstance(v, DictConfig) and "_target_" in v
        }
        node = OmegaConf.merge(node, parts) if parts else node
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
def lightning_errors() -> Iterator[None]:
    """Re-raise what Lightning itself refuses, which are settings of the trainer or a callback, as UsageError."""
    try:
        yield
    except (TypeError, ValueError, ImportError, RuntimeError, MisconfigurationException) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, UsageError) or "lightning" not in Path(last).parts:
            raise
        raise UsageError(f"trainer: {' '.join(str(error).split())}") from error
