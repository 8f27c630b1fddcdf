"""What a class-conditional flow takes images for, where the bits are counted and no one says what they are."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glow.distributions.base import Distribution
from glow.seeds import generator


def cheapest_labels(
    flow: Distribution, tried: Sequence[int] | None = None
) -> Callable[[Tensor, int], Tensor | None]:
    """A function that gives every image the label under which it is most probable.

    Args:
        flow: it; without classes there are no labels.
        tried: labels, -1 for none; None for all and none.

    Returns:
        What ``glow.codec.file.write`` takes: of integers (N, C, H, W), labels (N,), or None of a flow without classes.
    """
    options = list(range(-1, flow.classes)) if tried is None else list(tried)

    @torch.no_grad()
    def choose(x: Tensor, first: int) -> Tensor | None:
        if not flow.classes:
            return None
        if len(options) == 1:
            return torch.full((len(x),), options[0])
        found = []
        for part in x.split(64):
            part, noise = part.to(flow.device), flow.noise(len(part), generator("cpu", "labels", 0))
            scores = [
                flow.log_prob(part, torch.full((len(part),), y, device=flow.device), noise) for y in options
            ]
            found.append(torch.stack(scores).argmax(0).cpu())
        return torch.tensor(options)[torch.cat(found)]

    return choose
