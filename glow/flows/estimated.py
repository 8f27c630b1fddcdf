"""What flows have in common whose log-determinant is estimated by a random probe."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from glow.flows.flow import Flow
from glow.seeds import draw

EXACT = 2
"""With more dimensions, the log-determinant is estimated."""
DIGIT = 16
"""The binary digit of the noise that is the sign of the probe: it hardly changes where in its bin a grey level is."""


class Estimated(Flow):
    """A flow whose log-determinant is exact in the plane, and elsewhere an estimate that is right in the mean.

    The signs of the probe are digits of the noise: the same noise gives the same log-probability. The bijection takes the probe as
    its context, with a last dimension for more than one, and gives no log-det if there are none.
    """

    @property
    def estimated(self) -> bool:
        return math.prod(self.event_shape) > EXACT

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Uniform in [0, 1) for ``n`` elements, (n, *event_shape); None for points of the plane."""
        if not self.estimated:
            return None
        dtype = torch.promote_types(self.dtype, torch.float32)  # others have no such digit
        return draw(
            partial(torch.rand, dtype=dtype), n, *self.event_shape, generator=generator, device=self.device
        )

    def context(self, y: Tensor | None, n: int, noise: Tensor | None = None) -> Tensor | None:
        """The probe (n, D, 1) that the noise holds; without noise None, for the exact log-determinant."""
        if not self.estimated or noise is None:
            return None
        return 2 * self.digit(noise, n, DIGIT)[..., None] - 1

    def digit(self, noise: Tensor, n: int, place: int) -> Tensor:
        """A binary digit, 0 or 1, of the noise of ``n`` elements: (n, D)."""
        digits = (noise.expand(n, *self.event_shape) * 2.0**place).floor().remainder(2)
        return digits.flatten(1)

    def generate(self, latents: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """See ``Flow.generate``; without the log-determinant, which is most of the work."""
        z = self._joined(latents)
        return self.bijection.inverse(z, z.new_zeros(*z.shape, 0))[0]
