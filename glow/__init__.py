"""Normalizing flows for images: Glow in PyTorch Lightning, configured by Hydra.

``import glow``, ``glow.bijections``, ``glow.networks``, ``glow.distributions`` and ``glow.flows`` need torch alone
(``FFJORD`` torchdiffeq, too) and work in a notebook. A trained flow comes from a run's folder, a checkpoint or a safetensors file::

    import glow
    flow = glow.load("outputs/cifar10")
    flow.log_prob(images)              # uint8 (B, 3, 32, 32); nats, (B,)
    flow.sample(16, temperature=0.7)
    glow.codec.encode(flow, images)    # bytes, without loss; needs constriction
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glow import codec
    from glow.checkpoint import load

__all__ = ["codec", "load"]


def __getattr__(name: str) -> Any:
    """``load`` and ``codec`` when they are asked for: they need more than torch."""
    if name == "load":
        return import_module("glow.checkpoint").load
    if name == "codec":
        return import_module("glow.codec")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
