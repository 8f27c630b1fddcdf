"""Recipes that assemble a ``Flow`` from bijections and networks, and the densities beside it; no new maths."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from glow.distributions.base import Distribution
from glow.distributions.dequantization import Dequantization
from glow.errors import UsageError, nearest
from glow.flows.autoregressive import IAF, MAF
from glow.flows.ffjord import FFJORD
from glow.flows.flow import Flow
from glow.flows.glow import Glow
from glow.flows.made import MADEDensity
from glow.flows.nice import NICE
from glow.flows.nsf import NSF
from glow.flows.pixelcnn import PixelCNN
from glow.flows.pixelrnn import PixelRNN
from glow.flows.planar import PlanarFlow, RadialFlow
from glow.flows.realnvp import RealNVP
from glow.flows.residual import ResidualFlow
from glow.flows.vae import VAE
from glow.flows.wavenet import WaveNet
from glow.networks import ConvNet, ResNet

Classes = Mapping[str, Callable[..., Any]]

RECIPES: dict[str, type[Distribution]] = {
    f"glow.flows.{recipe.__name__}": recipe
    for recipe in (
        Glow,
        NICE,
        RealNVP,
        NSF,
        MAF,
        IAF,
        FFJORD,
        ResidualFlow,
        PlanarFlow,
        RadialFlow,
        MADEDensity,
        VAE,
        PixelCNN,
        PixelRNN,
        WaveNet,
    )
}
"""What a configuration's ``_target_`` may be. A table instead of imports: a checkpoint's configuration can only ask for
one of these, never for other code."""

NETWORKS: dict[str, type[nn.Module]] = {
    f"glow.networks.{network.__name__}": network for network in (ConvNet, ResNet)
}
"""What the ``_target_`` of a node inside may be."""

HYDRA_KEYS = ("_target_", "_partial_", "_recursive_", "_convert_")


def build(config: Mapping[str, Any], classes: Classes = {}) -> Distribution:  # noqa: B006 (it is only read)
    """The flow, or other density, that a plain ``model`` configuration describes.

    For checkpoints, whose content is not trusted; ``train.py`` instantiates what is typed by Hydra, which imports anything.

    Args:
        config: ``_target_``, a key of ``RECIPES``, and the arguments of that class. An argument that has a ``_target_``
            itself, a key of ``NETWORKS``, is what makes such networks.
        classes: by dotted path, other classes that ``_target_`` may name, which whoever calls trusts.

    Raises:
        UsageError: an unknown class or argument (with the nearest known ones), or a value that the
            recipe refuses.

    >>> flow = build({"_target_": "glow.flows.RealNVP", "event_shape": [2], "layers": 4})
    >>> flow.event_shape
    (2,)
    """
    recipe, arguments = _class_and_arguments(config, RECIPES, classes, "model")
    known = inspect.signature(recipe).parameters
    missing = [n for n, p in known.items() if _required(p) and n not in arguments]
    if missing:
        raise UsageError(f"model.{missing[0]} is missing: {config['_target_']} needs it")
    return recipe(**arguments)


def _class_and_arguments(
    node: Mapping[str, Any], table: Classes, classes: Classes, path: str
) -> tuple[Callable[..., Any], dict[str, Any]]:
    target = node.get("_target_")
    made = classes.get(str(target)) or table.get(str(target))
    if made is None:
        if target is None or str(target).startswith("glow.") or nearest(target, table):
            raise UsageError(
                f"{path}._target_={target!r} is not one of {', '.join(table)}{nearest(target, table)}"
            )
        raise UsageError(
            f"{path}._target_={target} is a class of your own: name it again, ++{path}._target_={target}"
        )
    arguments = {k: _value(v, classes, f"{path}.{k}") for k, v in node.items() if k not in HYDRA_KEYS}
    known = inspect.signature(made).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for name in arguments:
            if name not in known:
                raise UsageError(f"{path}.{name} is not an option of {target}{nearest(name, known)}")
    return made, arguments


def _value(value: Any, classes: Classes, path: str) -> Any:
    """A plain value as it is, one with a ``_target_`` as a factory of what that names."""
    if isinstance(value, Mapping):
        if "_target_" not in value:
            return {k: _value(v, classes, f"{path}.{k}") for k, v in value.items()}
        made, arguments = _class_and_arguments(value, NETWORKS, classes, path)
        return partial(made, **arguments)
    if isinstance(value, (list, tuple)):
        return [_value(v, classes, f"{path}.{i}") for i, v in enumerate(value)]
    return value


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


__all__ = [
    "FFJORD",
    "IAF",
    "MAF",
    "NETWORKS",
    "NICE",
    "NSF",
    "RECIPES",
    "VAE",
    "Dequantization",
    "Flow",
    "Glow",
    "MADEDensity",
    "PixelCNN",
    "PixelRNN",
    "PlanarFlow",
    "RadialFlow",
    "RealNVP",
    "ResidualFlow",
    "WaveNet",
    "build",
]
