"""Small flows whose weights are not those that they start with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from glow.flows import Glow

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"event_shape": (1, 4, 4), "grey_levels": 16, "levels": 1},
    "labelled": {
        "event_shape": (3, 8, 8),
        "gaussianize": True,
        "noise_width": 4,
        "position": True,
        "min_scale": 0.1,
        "class_conditional": True,
        "classes": 3,
    },
    "additive": {"event_shape": (3, 8, 12), "grey_levels": 32, "coupling": "additive"},
    "shuffled": {"event_shape": (1, 8, 8), "grey_levels": 17, "permutation": "shuffle", "learned_top": False},
    "mixture": {
        "event_shape": (3, 8, 8),
        "gaussianize": True,
        "coupling": "mixture",
        "components": 3,
        "min_scale": 0.1,
    },
    "binary": {"event_shape": (2, 4, 4), "grey_levels": 2, "gaussianize": True},
    "white": {"event_shape": (1, 8, 8), "grey_levels": 4, "gaussianize": True},
}


def make(name: str, **more: Any) -> Glow:
    flow = Glow(**{"depth": 2, "width": 8} | MODELS[name] | more)
    x = images(flow, 64)
    flow.initialize(x, torch.randint(flow.classes, (64,)) if flow.classes else None)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
        if name == "white":  # noise that crowds at the ends of its level
            flow.bijection.steps[0].log_scale += 1  # type: ignore[union-attr, operator, index]
    return flow.eval()


def images(flow: Glow, n: int) -> Tensor:
    """Random walks over pixels: neighbours are alike."""
    levels = flow.grey_levels or 2
    if flow.event_shape == (1, 8, 8) and levels == 4:  # pages: nearly all is white
        return torch.where(torch.rand(n, *flow.event_shape) < 0.97, 3, 1).to(torch.uint8)
    steps = torch.randint(-levels // 8 - 1, levels // 8 + 2, (n, *flow.event_shape))
    return (steps.cumsum(2).cumsum(3) % levels).to(torch.uint8)
