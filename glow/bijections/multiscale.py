"""The multi-scale architecture."""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection, Part, Shape, no_log_det
from glow.errors import UsageError


class MultiScale(Bijection):
    """Levels with half of the channels factored out between them (Dinh et al. 2017, section 3.6).

    After every level but the last, the second half of the channels leaves as a latent, standardized by
    its prior given the first half, which goes on (Kingma & Dhariwal 2018, figure 2b). The latents of an image are
    one vector, those of the finest scale first; ``latent_shapes`` tells the shapes of its pieces.

    Args:
        shape: of one image, (C, H, W).
        levels: the bijection of each level, L of them.
        splits: the priors of the latents that leave early, given what goes on, L - 1 of them: ``SplitPrior``, or an
            empty ``Composition`` for standard normals.
        top: the prior of the last latent. It and the levels get the context.

    Raises:
        UsageError: splits are not one fewer than levels.

    >>> from glow.bijections import Composition, Squeeze, TopPrior
    >>> f = MultiScale((1, 4, 4), [Squeeze(), Squeeze()], [Composition([])], TopPrior(8))
    >>> z, log_det = f(torch.ones(5, 1, 4, 4))
    >>> z.shape, f.latent_shapes((1, 4, 4))
    (torch.Size([5, 16]), [(2, 2, 2), (8, 1, 1)])
    """

    def __init__(
        self, shape: Shape, levels: Sequence[Bijection], splits: Sequence[Bijection], top: Bijection
    ) -> None:
        super().__init__()
        if len(splits) != len(levels) - 1:
            raise UsageError(
                f"splits must be one fewer than levels, got {len(splits)} splits of {len(levels)} levels"
            )
        self.shape = tuple(shape)
        self.levels = nn.ModuleList(levels)
        self.splits = nn.ModuleList(splits)
        self.top = top

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Image (B, C, H, W) -> latents (B, C H W) and log-det (B,)."""
        latents = []
        total = no_log_det(x)
        for level, split in zip(self.levels, self.splits, strict=False):  # all levels but the last
            x, log_det = level(x, context)
            x, leaving = x.chunk(2, dim=1)
            latent, prior_log_det = split(leaving, x)
            latents.append(latent.flatten(1))
            total = total + log_det + prior_log_det
        x, log_det = self.levels[-1](x, context)
        latent, prior_log_det = self.top(x, context)
        return torch.cat([*latents, latent.flatten(1)], dim=1), total + log_det + prior_log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents (B, C H W) -> image (B, C, H, W) and log-det (B,)."""
        shapes = self.latent_shapes(self.shape)
        pieces = z.split([math.prod(s) for s in shapes], dim=1)
        latents = [piece.unflatten(1, s) for piece, s in zip(pieces, shapes, strict=True)]
        x, total = self.top.inverse(latents[-1], context)
        x, log_det = cast(Bijection, self.levels[-1]).inverse(x, context)
        total = total + log_det
        for i in reversed(range(len(self.splits))):
            leaving, prior_log_det = cast(Bijection, self.splits[i]).inverse(latents[i], x)
            x, log_det = cast(Bijection, self.levels[i]).inverse(torch.cat((x, leaving), dim=1), context)
            total = total + log_det + prior_log_det
        return x, total

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def latent_shapes(self, shape: Shape) -> list[Shape]:
        """The shapes of the latents of one image (C, H, W), finest scale first."""
        shapes = []
        for level in self.levels[:-1]:
            channels, *space = cast(Bijection, level).output_shape(shape)
            shape = (channels // 2, *space)
            shapes.append(shape)
        return [*shapes, cast(Bijection, self.levels[-1]).output_shape(shape)]

    def parts(self) -> Iterator[Part]:
        for i, level in enumerate(self.levels):
            place = f"level {i + 1}"
            for part in cast(Bijection, level).parts():
                yield part.within(place, scale=i)
            if i < len(self.splits):
                yield SplitPart(cast(Bijection, self.splits[i]), place, i)
        last = len(self.splits)
        for part in self.top.parts():
            yield part.within(f"level {last + 1}", scale=last)


class SplitPart(Part):
    """Half of the channels leaves, through the bijection, which is conditioned on the half that goes on."""

    @property
    def kind(self) -> str:
        return "prior"  # also where the split is an empty Composition, a standard normal

    def forward(self, x: Tensor, context: Tensor | None, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, leaving = x.chunk(2, dim=1)
        latent, log_det = self.bijection(leaving, x)
        latents.append(latent)
        return x, log_det

    def inverse(self, z: Tensor, context: Tensor | None, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        leaving, log_det = self.bijection.inverse(latents.pop(), z)
        return torch.cat((z, leaving), dim=1), log_det
