"""Small levels in float64, and all that they compute."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glow.bijections import (
    ActNorm,
    Affine,
    Composition,
    Coupling,
    Elementwise,
    FullConv1x1,
    Halves,
    LUConv1x1,
    Permutation,
    Shift,
)
from glow.fused import FusedLevel
from glow.networks import ConvNet

COUPLINGS: dict[str, Elementwise] = {
    "affine": Affine(),
    "affine bounded": Affine(min_scale=0.2),
    "additive": Shift(),
}
MIXINGS: dict[str, Callable[[int], Any]] = {
    "lu": LUConv1x1, "full": FullConv1x1, "reverse": Permutation.reverse, "shuffle": Permutation.shuffle,
}  # fmt: skip
CHANNELS = 8


def step(elementwise: Elementwise, mixing: str = "lu", swap: bool = False, **shifts: Any) -> Composition:
    half = CHANNELS // 2
    before = [ActNorm(CHANNELS), MIXINGS[mixing](CHANNELS)]
    network = ConvNet(half, elementwise.parameters * half, 8, **shifts)
    return Composition([*before, Coupling(Halves(swap), network, elementwise)])


def level(
    coupling: str = "affine", mixing: str = "lu", recompute: str = "none", depth: int = 3, away: float = 0.2
) -> FusedLevel:
    """In float64, away from where it starts."""
    made = FusedLevel([step(COUPLINGS[coupling], mixing) for _ in range(depth)], recompute).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += away * torch.randn_like(parameter)
    return made


def conditioned_level(recompute: str = "none", coupling: str = "affine bounded", **shifts: Any) -> FusedLevel:
    """The same with shifts: ``position`` and ``context_channels`` of ``ConvNet``, of images of 3x2."""
    steps = [step(COUPLINGS[coupling], size=(3, 2), **shifts) for _ in range(3)]
    made = FusedLevel(steps, recompute).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return made


def images(n: int = 3) -> Tensor:
    return torch.randn(n, CHANNELS, 3, 2, dtype=torch.float64)


def everything(made: FusedLevel, x: Tensor, context: Tensor | None = None) -> dict[str, Tensor]:
    """Outputs and all gradients of a loss that depends on both outputs."""
    made.zero_grad()
    x = x.clone().requires_grad_()
    z, log_det = made(x, context)
    weights = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)
    (torch.sin(z) * weights).sum().add((log_det * torch.arange(1, len(x) + 1)).sum()).backward()
    gradients = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"z": z.detach(), "log_det": log_det.detach(), "x.grad": x.grad, **gradients}
