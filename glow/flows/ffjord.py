"""FFJORD: a flow in continuous time with a free-form network (Grathwohl et al. 2019)."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from glow.bijections import Continuous
from glow.flows.flow import Flow
from glow.flows.vectors import BASES, chain, check_vectors_or_images
from glow.networks import Velocity
from glow.seeds import draw

EXACT = 2
"""With more dimensions, the trace is estimated."""
DIGIT = 2.0**16
"""The binary digit of the noise that is the sign of the probe: it hardly changes where in its bin a grey level is."""


class FFJORD(Flow):
    """One ordinary differential equation from data to latents, see ``Continuous``.

    In the plane the trace of the Jacobian is exact. Elsewhere ``log_prob`` estimates it with one probe per solve, whose signs
    are digits of the noise: the same noise gives the same log-probability, which is right in the mean over noise. Images
    are flattened.

    Args:
        event_shape: (D,), at least two dimensions, or (C, H, W).
        hidden: size of the hidden layers of the velocity.
        hidden_layers: number of those.
        solver: ``dopri5``, ``rk4``, ``midpoint`` or ``euler``.
        steps: of the last three.
        tolerance: of the first.
        kinetic: weight of the kinetic energy in training.
        jacobian: weight of the Jacobian's norm in training.
        base: of vectors, a key of ``BASES``.
        components: of a mixture as the base.
        grey_levels: of images.
        gaussianize: of images, begin with the marginal distribution of each channel, see ``Gaussianize``.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> flow = FFJORD((2,), hidden=8)
    >>> x = torch.zeros(3, 2)
    >>> torch.allclose(flow.decode(flow.encode(x)), x, atol=1e-3)
    True
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: int = 64,
        hidden_layers: int = 3,
        solver: str = "dopri5",
        steps: int = 8,
        tolerance: float = 1e-5,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        base: str = "normal",
        components: int = 8,
        grey_levels: int | None = None,
        gaussianize: bool = False,
    ) -> None:
        d, dequantization = check_vectors_or_images(
            "FFJORD", event_shape, grey_levels, hidden=hidden, hidden_layers=hidden_layers
        )
        equation = Continuous(Velocity(d, hidden, hidden_layers), solver, steps, tolerance, kinetic, jacobian)
        marginals = dequantization.grey_levels if gaussianize and dequantization else None
        bijection = chain([equation], event_shape, base, marginals)
        super().__init__(bijection, event_shape, dequantization, base=BASES[base](d, components))

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
        """The probe (n, D, 1) that the noise holds; without noise None, for the exact trace."""
        if not self.estimated or noise is None:
            return None
        sign = 2 * (noise.expand(n, *self.event_shape) * DIGIT).floor().remainder(2) - 1
        return sign.flatten(1)[..., None]

    def generate(self, latents: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """See ``Flow.generate``; without the trace, which is most of the work."""
        z = self._joined(latents)
        return self.bijection.inverse(z, z.new_zeros(*z.shape, 0))[0]

    def figures(self) -> dict[str, float]:
        """How often the last solve called the velocity."""
        return {"evaluations": sum(m.evaluations for m in self.modules() if isinstance(m, Continuous))}
