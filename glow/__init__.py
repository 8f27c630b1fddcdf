"""Normalizing flows for images: Glow in PyTorch Lightning, configured by Hydra.

``import glow``, ``glow.bijections``, ``glow.networks``, ``glow.distributions`` and ``glow.flows`` need torch alone
(``FFJORD`` torchdiffeq, too) and work in a notebook. A trained flow comes from a run's folder, a checkpoint or a safetensors file::

    import glow
    flow = glow.load("outputs/cifar10")
    flow.log_prob(images)              # uint8 (B, 3, 32, 32); nats, (B,)
    flow.sample(16, temperature=0.7)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from glow.checkpoint import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """``load`` when it is asked for: reading files needs safetensors."""
    if name in __all__:
        from glow import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
