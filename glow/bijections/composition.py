"""Bijections one after another, and the other way round."""

from collections.abc import Iterator, Sequence
from typing import cast

from torch import Tensor, nn

from glow.bijections.base import Bijection, Part, Shape, no_log_det


class Composition(Bijection):
    r"""The chain :math:`f = f_n \circ \dots \circ f_1`; log-determinants add up.

    Args:
        steps: the bijections in the order in which ``forward`` applies them.
        numbered: whether ``parts`` names them step 1, step 2, ...

    >>> import torch
    >>> from glow.bijections import ActNorm, Squeeze
    >>> f = Composition([Squeeze(), ActNorm(4)])
    >>> z, log_det = f(torch.ones(2, 1, 4, 4))
    >>> z.shape, log_det.shape
    (torch.Size([2, 4, 2, 2]), torch.Size([2]))
    """

    def __init__(self, steps: Sequence[Bijection], numbered: bool = True) -> None:
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.numbered = numbered

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> z (B, ...), log-det (B,)."""
        total = no_log_det(x)
        for step in self.steps:
            x, log_det = step(x, context)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> x (B, ...), log-det (B,)."""
        total = no_log_det(z)
        for step in reversed(self.steps):
            z, log_det = cast(Bijection, step).inverse(z, context)
            total = total + log_det
        return z, total

    def output_shape(self, shape: Shape) -> Shape:
        for step in self.steps:
            shape = cast(Bijection, step).output_shape(shape)
        return shape

    def latent_shapes(self, shape: Shape) -> list[Shape]:
        if not len(self.steps):
            return [shape]
        *before, last = (cast(Bijection, step) for step in self.steps)
        for step in before:
            shape = step.output_shape(shape)
        return last.latent_shapes(shape)

    def parts(self) -> Iterator[Part]:
        for k, step in enumerate(self.steps):
            for part in cast(Bijection, step).parts():
                yield part.within(f"step {k + 1}") if self.numbered else part


class Inverse(Bijection):
    """A bijection the other way round: what was slow is fast (inverse autoregressive flow, Kingma et al. 2016).

    Args:
        bijection: between spaces of the same shape.

    >>> import torch
    >>> from glow.bijections import Radial
    >>> f = Radial(2)
    >>> z, log_det = Inverse(f)(torch.ones(3, 2))
    >>> torch.allclose(f(z)[0], torch.ones(3, 2), atol=1e-5)
    True
    """

    def __init__(self, bijection: Bijection) -> None:
        super().__init__()
        self.bijection = bijection

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.bijection(z, context)
