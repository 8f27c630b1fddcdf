"""Guidance: samples that show their label more clearly than the data does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from glow.bijections.repeated import unfused


def extrapolated(
    parameters: Callable[[Tensor | None], Tensor], context: Tensor | None, guidance: float
) -> Tensor:
    r"""The parameters of a map under guidance w: :math:`h_\emptyset + (1 + w) (h_y - h_\emptyset)`.

    Args:
        parameters: of the context.
        context: one-hot labels (B, classes); zeros are no label.
        guidance: w; 0 gives the parameters for the label, -1 those without one.
    """
    if not guidance or context is None:
        return parameters(context)
    return torch.lerp(parameters(torch.zeros_like(context)), parameters(context), 1 + guidance)


@contextmanager
def guided(module: nn.Module, guidance: float) -> Iterator[None]:
    """Inside it, couplings and the top prior extrapolate from what they are without a label to what they are with it.

    Classifier-free guidance of a flow (Ho & Salimans 2021; Zhai et al. 2024, section 3.4, for flows). It is the parameters
    before a coupling bounds its scale that are extrapolated, so that bounds hold as ever; what depends on no label, such as
    1x1 convolutions, stays. The map is still invertible, but to sample with it draws from no density: it is for samples alone.

    Args:
        module: a flow or a bijection, trained with ``label_dropout``.
        guidance: see ``extrapolated``.
    """
    guidable: list[Any] = [m for m in module.modules() if hasattr(m, "guidance")]
    before = [m.guidance for m in guidable]
    for m in guidable:
        m.guidance = guidance
    try:
        with unfused(module) if guidance else nullcontext():
            yield
    finally:
        for m, value in zip(guidable, before, strict=True):
            m.guidance = value
