"""Normalizing flows for images: Glow in PyTorch Lightning, configured by Hydra.

``bijections``, ``networks``, ``models`` and ``flow`` need torch alone and work in a notebook::

    from glow.flows import glow
    flow = glow((3, 32, 32), depth=8, width=128)
    flow.initialize(images)  # uint8 (B, 3, 32, 32)
    flow.log_prob(images)    # nats, (B,)
    flow.eval().sample(16, temperature=0.7)

A trained one comes from a run's folder, a checkpoint or a safetensors file::

    from glow import load
    flow = load("outputs/cifar10")
"""

from glow.checkpoint import load

__all__ = ["load"]
