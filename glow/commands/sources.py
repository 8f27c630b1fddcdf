"""Which data ``sample`` and ``evaluate`` look at, and which classes of the user's own they may use.

What is typed is trusted. What a checkpoint says is data: it names classes of our tables alone, and no place to write.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hydra.errors import MissingConfigException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from glow.checkpoint import SavedModel
from glow.commands.main import compose
from glow.errors import UsageError, nearest


class Source(NamedTuple):
    """Which data: that of the checkpoint with single keys changed, or another."""

    config: dict[str, Any]
    typed: bool
    """Whether the command line says where it is. If not, it is read and nothing is written or downloaded there."""
    label: str
    """Names the data in folders and messages, apart from that of the training."""
    own: bool
    """Whether it is what the model was trained on."""


def settings(node: DictConfig) -> dict[str, Any]:
    """The plain values of a node without those that are missing (???)."""
    values: Any = OmegaConf.to_container(node, resolve=True)
    return {key: value for key, value in values.items() if value != "???"}


def named_classes(cfg: DictConfig, group: str) -> dict[str, Callable[..., Any]]:
    """The classes of the user's own that the command line names by ``_target_`` in ``model`` or ``dataset``.

    Raises:
        UsageError: there is no such class.
    """
    values = OmegaConf.to_container(cfg[group]) if isinstance(cfg.get(group), DictConfig) else {}
    found = {}
    for name, value in _leaves(values, group):
        if name.endswith("._target_") and isinstance(value, str) and not value.startswith("glow."):
            try:
                found[value] = get_object(value)
            except Exception as error:  # whatever importing it raises
                raise UsageError(f"{name}={value} cannot be imported: {error}") from error
    return found


def refuse_model_settings(cfg: DictConfig) -> None:
    """Raise ``UsageError`` for a setting of the model that no dataset brought: the model is the checkpoint's."""
    chosen = "_target_" in (cfg.get("dataset") or {})
    values = (
        OmegaConf.to_container(cfg.model) if isinstance(cfg.get("model"), DictConfig) and not chosen else {}
    )
    for name, _ in _leaves(values, "model"):
        if not name.endswith("._target_"):
            raise UsageError(
                f"{name}: the model is the checkpoint's; only a class can be named, ++model._target_="
            )


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}")
    else:
        yield name, value


def data_source(given: Mapping[str, Any], saved: SavedModel) -> Source:
    """The data that the command line means: a dataset that it chose, or the checkpoint's with some keys changed.

    Args:
        given: the settings of ``dataset`` on the command line.
        saved: its data is taken where ``given`` chooses none; its file never says where to write.

    Raises:
        UsageError: a key that the checkpoint's data does not have, or neither names any data.
    """
    own, target = dict(saved.dataset or {}), given.get("_target_")
    config = dict(given)
    if not (chosen := target is not None and (target.startswith("glow.") or target != own.get("_target_"))):
        if saved.dataset is None:
            raise UsageError(f"{saved.path} does not say what data it was trained on: set dataset=")
        for key in given:
            if key not in own:
                raise UsageError(f"dataset.{key} is not a setting of {own.get('name')}{nearest(key, own)}")
        config = own | config
        if "cache" in own and "cache" not in given:
            config["cache"] = "auto" if "root" in given else None
    if config.get("grey_levels") is not None:
        config["grey_levels"] = saved.model.get("grey_levels", config["grey_levels"])
    label = _label(config, own)
    return Source(config, chosen or "root" in given, label, label == _clean(own.get("name")))


def is_folder(config: Mapping[str, Any]) -> bool:
    """Whether data is any folder of pictures or sound, not a published set, which has a ``kind``."""
    return ("image_size" in config or "length" in config) and "kind" not in config


def _label(config: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    name = str(config.get("name", "data"))
    if name == own.get("name"):
        # Which examples there are.
        decides = ("kind", "noise", "sample_rate", "val_size", "test_size", "train_size")
        name += "".join(f"-{k}={config[k]}" for k in decides if k in own and config.get(k) != own[k])
    if is_folder(config) and config.get("root") != own.get("root"):
        name += f"-{Path(str(config.get('root'))).resolve().name}"
    return _clean(name)


def _clean(name: object) -> str:
    """A name that is one folder's: a file may give any."""
    return re.sub(r"[^\w.=-]|^\.+", "_", str(name))


def other_sources(ood: str, given: dict[str, Any], saved: SavedModel) -> tuple[Source, Source]:
    """The data of the training and the other data that ``ood=IN_DISTRIBUTION:OTHER`` or ``ood=OTHER`` names.

    OTHER is a dataset, or a folder of pictures. ``dataset.KEY=`` of the command line is about the other, and about
    both when both are torchvision's, which then lie side by side.
    """
    names = ood.split(":")
    if len(names) > 2 or not all(names):
        raise UsageError(f"ood={ood} must be IN_DISTRIBUTION:OTHER, two datasets, or the other alone")
    if "_target_" in given:
        raise UsageError("ood names the datasets: leave out dataset=")
    trained = saved.dataset.get("name") if saved.dataset else names[0]
    if len(names) == 2 and names[0] != trained:
        raise UsageError(f"ood={ood}: this model was trained on {trained}: set ood={trained}:{names[0]}")
    chosen = dataset_option("ood", names[-1])
    here = given if saved.dataset is None or ("kind" in saved.dataset and "kind" in chosen) else {}
    first = dataset_option("ood", names[0]) | given if saved.dataset is None else here
    own, other = data_source(first, saved), data_source(chosen | given, saved)
    if "root" in own.config and "kind" in own.config and "kind" in chosen and "root" not in given:
        beside, typed = own.config["root"], own.config["root"] == chosen.get("root")
        place = {"root": beside} | ({} if typed or "cache" not in other.config else {"cache": None})
        other = other._replace(config=other.config | place, typed=typed)
    return own, other


def dataset_option(key: str, name: str) -> dict[str, Any]:
    """The settings of a dataset of ``conf``, as ``dataset=NAME`` would choose it; or of a folder of pictures.

    Raises:
        UsageError: the setting ``key`` names neither.
    """
    if "/" in name and Path(name).is_dir():
        return dataset_option(key, "image_folder") | {"root": name}
    try:
        return settings(compose("evaluate", [f"dataset={name}"]).dataset)
    except MissingConfigException as error:
        options = list(error.options or [])
        raise UsageError(
            f"{key}={name} is not one of {', '.join(options)}, nor a folder such as ./{name}{nearest(name, options)}"
        ) from error
