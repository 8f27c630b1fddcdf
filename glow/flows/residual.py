"""The residual flow (Behrmann et al. 2019; Chen et al. 2019)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from glow.bijections import ActNorm, Bijection, Residual
from glow.errors import UsageError, check_positive
from glow.flows.estimated import DIGIT, Estimated
from glow.flows.vectors import BASES, chain, check_vectors_or_images
from glow.networks import LipschitzMLP

STRONGEST = 0.99
"""Lipschitz constant: nearer to one the inverse takes thousands of iterations, and norms are not known well enough."""
DIGITS = 8
"""Of the noise, after that of the probe's sign: as many as float32 has."""


class ResidualFlow(Estimated):
    """Residual blocks with an ``ActNorm`` before each, see ``Residual``.

    In the plane the log-determinant is exact. Elsewhere ``log_prob`` estimates it with one probe and one number of terms of an
    element for all blocks, see ``Estimated``. Images are flattened.

    Args:
        event_shape: (D,), at least two dimensions, or (C, H, W).
        layers: number of blocks.
        hidden: size of the hidden layers of each one's network.
        hidden_layers: number of those.
        lipschitz: what no block's residual exceeds as its Lipschitz constant, at most 0.99.
        base: of vectors, a key of ``BASES``.
        components: of a mixture as the base.
        grey_levels: of images.
        gaussianize: of images, begin with the marginal distribution of each channel, see ``Gaussianize``.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> flow = ResidualFlow((2,), layers=2)
    >>> flow.initialize(torch.randn(100, 2))
    >>> x = torch.zeros(3, 2)
    >>> torch.allclose(flow.decode(flow.encode(x)), x, atol=1e-5)
    True
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int = 6,
        hidden: int = 64,
        hidden_layers: int = 2,
        lipschitz: float = 0.97,
        base: str = "normal",
        components: int = 8,
        grey_levels: int | None = None,
        gaussianize: bool = False,
    ) -> None:
        d, dequantization = check_vectors_or_images(
            "ResidualFlow",
            event_shape,
            grey_levels,
            layers=layers,
            hidden=hidden,
            hidden_layers=hidden_layers,
        )
        check_positive("lipschitz", lipschitz)
        if lipschitz > STRONGEST:
            raise UsageError(f"lipschitz must be at most {STRONGEST}, got {lipschitz}")
        maps: list[Bijection] = []
        for _ in range(layers):
            maps += [ActNorm(d), Residual(LipschitzMLP(d, hidden, hidden_layers, lipschitz))]
        marginals = dequantization.grey_levels if gaussianize and dequantization else None
        bijection = chain(maps, event_shape, base, marginals)
        super().__init__(bijection, event_shape, dequantization, base=BASES[base](d, components))

    def context(self, y: Tensor | None, n: int, noise: Tensor | None = None) -> Tensor | None:
        """The probe and the number of terms that the noise holds, (n, D + 1, 1).

        The number is that of ones before the first zero in a row of random digits, eight a dimension: at most so many.
        """
        probe = super().context(y, n, noise)
        if probe is None or noise is None:
            return None
        row = torch.cat([self.digit(noise, n, DIGIT + 1 + i) for i in range(DIGITS)], dim=1)
        return torch.cat((probe, row.cumprod(1).sum(1)[:, None, None]), dim=1)

    def figures(self) -> dict[str, float]:
        """The largest Lipschitz constant of a block (its bound, the product of the layers' norms), and the most terms of an estimate."""
        blocks = [m for m in self.modules() if isinstance(m, Residual)]
        terms = {"terms": float(max(b.terms for b in blocks))} if self.estimated else {}
        return {"lipschitz": max(b.network.lipschitz() for b in blocks), **terms}
