"""NICE: additive couplings and one diagonal scaling (Dinh et al. 2014)."""

from collections.abc import Sequence

from glow.bijections import ActNorm, Bijection, Scale, Shift
from glow.flows.flow import Flow
from glow.flows.vectors import BASES, alternating, chain, check_vectors_or_images


class NICE(Flow):
    """Additive couplings of alternating halves, then a learned factor for each dimension (section 3.3).

    The paper's prior for images is logistic: that is ``base="uniform"``. Where the paper whitens images, ours begin with
    an ``ActNorm``.

    Args:
        event_shape: (D,), at least two dimensions, or (C, H, W): images, flattened.
        layers: number of couplings; the paper's is 4 for images.
        hidden: size of the hidden layers of each coupling's network; the paper's is 1000.
        hidden_layers: number of those; the paper's is 5.
        base: a key of ``BASES``.
        components: of a mixture as the base.
        grey_levels: of images.
        gaussianize: of images, begin with the marginal distribution of each channel, see ``Gaussianize``.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> NICE((1, 4, 4), grey_levels=256).eval().sample(2).shape
    torch.Size([2, 1, 4, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int = 6,
        hidden: int = 64,
        hidden_layers: int = 2,
        base: str = "normal",
        components: int = 8,
        grey_levels: int | None = None,
        gaussianize: bool = False,
    ) -> None:
        d, dequantization = check_vectors_or_images(
            "NICE", event_shape, grey_levels, layers=layers, hidden=hidden, hidden_layers=hidden_layers
        )
        maps: list[Bijection] = [*alternating(d, layers, hidden, hidden_layers, Shift()), Scale(d)]
        marginals = dequantization.grey_levels if gaussianize and dequantization else None
        bijection = chain([ActNorm(d), *maps] if dequantization else maps, event_shape, base, marginals)
        super().__init__(bijection, event_shape, dequantization, base=BASES[base](d, components))
