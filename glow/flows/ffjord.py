"""FFJORD: a flow in continuous time with a free-form network (Grathwohl et al. 2019)."""

from collections.abc import Sequence

from glow.bijections import Continuous
from glow.flows.estimated import Estimated
from glow.flows.vectors import BASES, chain, check_vectors_or_images
from glow.networks import Velocity


class FFJORD(Estimated):
    """One ordinary differential equation from data to latents, see ``Continuous``.

    In the plane the trace of the Jacobian is exact. Elsewhere ``log_prob`` estimates it with one probe per solve, see
    ``Estimated``. Images are flattened.

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

    >>> import torch
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

    def figures(self) -> dict[str, float]:
        """How often the last solve called the velocity."""
        return {"evaluations": sum(m.evaluations for m in self.modules() if isinstance(m, Continuous))}
