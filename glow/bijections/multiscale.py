"""The multi-scale architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection, Shape, no_log_det


class MultiScale(nn.Module):
    """Levels with half of the channels factored out between them (Dinh et al. 2017, section 3.6).

    After every level but the last, the second half of the channels leaves as a latent, standardized by
    its prior given the first half, which goes on (Kingma & Dhariwal 2018, figure 2b).

    It is a bijection between an image and a list of latents, finest scale first, and has the same two
    directions as a ``Bijection``.

    Args:
        levels: the bijection of each level, L of them.
        splits: the priors of the latents that leave early, given what goes on, L - 1 of them: ``SplitPrior``, or an
            empty ``Composition`` for standard normals.
        top: the prior of the last latent, conditioned on the label if there are classes.
    """

    def __init__(self, levels: Sequence[Bijection], splits: Sequence[Bijection], top: Bijection) -> None:
        super().__init__()
        assert len(splits) == len(levels) - 1
        self.levels = nn.ModuleList(levels)
        self.splits = nn.ModuleList(splits)
        self.top = top

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Image (B, C, H, W) -> latents, L tensors (B, ...), and log-det (B,)."""
        latents = []
        total = no_log_det(x)
        for level, split in zip(self.levels, self.splits, strict=False):
            x, log_det = level(x)
            x, leaving = x.chunk(2, dim=1)
            latent, prior_log_det = split(leaving, x)
            latents.append(latent)
            total = total + log_det + prior_log_det
        x, log_det = self.levels[-1](x)
        latent, prior_log_det = self.top(x, context)
        return [*latents, latent], total + log_det + prior_log_det

    def inverse(self, latents: Sequence[Tensor], context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents, L tensors (B, ...) -> image (B, C, H, W) and log-det (B,)."""
        x, total = self.top.inverse(latents[-1], context)
        x, log_det = cast(Bijection, self.levels[-1]).inverse(x)
        total = total + log_det
        for i in reversed(range(len(self.splits))):
            leaving, prior_log_det = cast(Bijection, self.splits[i]).inverse(latents[i], x)
            x, log_det = cast(Bijection, self.levels[i]).inverse(torch.cat((x, leaving), dim=1))
            total = total + log_det + prior_log_det
        return x, total

    def latent_shapes(self, shape: Shape) -> list[Shape]:
        """The shapes of the latents of one image (C, H, W), finest scale first."""
        shapes = []
        for level in self.levels[:-1]:
            channels, *space = cast(Bijection, level).output_shape(shape)
            shape = (channels // 2, *space)
            shapes.append(shape)
        return [*shapes, cast(Bijection, self.levels[-1]).output_shape(shape)]
