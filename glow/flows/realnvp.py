"""RealNVP: affine couplings with alternating masks, of vectors and of images (Dinh et al. 2017)."""

from collections.abc import Sequence

from glow.bijections import (
    ActNorm,
    Affine,
    Bijection,
    Checkerboard,
    Composition,
    Coupling,
    Gaussianize,
    Halves,
    Mask,
    MultiScale,
    Squeeze,
)
from glow.distributions.dequantization import Dequantization
from glow.errors import UsageError, check_positive
from glow.flows.flow import Flow
from glow.flows.vectors import BASES, alternating, chain, check_vectors
from glow.networks import ResNet


class RealNVP(Flow):
    """Affine couplings with tanh-bounded scales.

    Of vectors, even couplings move the second half, odd ones the first. Of images it is the multi-scale architecture of
    section 3.6: at every scale three couplings with checkerboard masks, a squeeze, three with alternating channel masks,
    and half of the channels leave; the last scale has four with checkerboard masks.

    Args:
        event_shape: (D,), at least two dimensions, or (C, H, W).
        layers: number of couplings of vectors.
        hidden: size of the hidden layers of their networks.
        hidden_layers: number of those.
        base: of vectors, a key of ``BASES``.
        components: of a mixture as the base.
        grey_levels: of images.
        levels: scales of images; H and W must divide by 2^(levels - 1). None takes as many as divide, at most 3.
        width: channels of the residual networks of images.
        blocks: residual blocks in each of them; the paper's is 8 for 32x32 and 4 for 64x64.
        gaussianize: of images, begin with the marginal distribution of each channel, see ``Gaussianize``.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> import torch
    >>> flow = RealNVP((2,), layers=4)
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
        base: str = "normal",
        components: int = 8,
        grey_levels: int | None = None,
        levels: int | None = None,
        width: int = 32,
        blocks: int = 2,
        gaussianize: bool = False,
    ) -> None:
        if len(event_shape) == 3:
            if base != "normal":
                raise UsageError(f"base must be normal for RealNVP of images, got {base!r}")
            if grey_levels is None:
                raise UsageError("RealNVP needs the number of grey_levels of images")
            bijection: Bijection = image_realnvp(event_shape, levels, width, blocks)
            if gaussianize:
                bijection = Composition([Gaussianize(event_shape[0], grey_levels), bijection], numbered=False)
            super().__init__(bijection, event_shape, Dequantization(grey_levels))
            return
        d = check_vectors("RealNVP", event_shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
        maps = alternating(d, layers, hidden, hidden_layers, Affine("tanh"))
        super().__init__(chain(maps, event_shape, base), event_shape, base=BASES[base](d, components))


def image_realnvp(event_shape: Sequence[int], levels: int | None, width: int, blocks: int) -> MultiScale:
    """The multi-scale bijection of images (C, H, W); the arguments are those of ``RealNVP``."""
    channels, height, across = event_shape
    check_positive("width", width, integer=True)
    check_positive("blocks", blocks, integer=True)
    fitting = [n for n in range(1, 12) if height % 2 ** (n - 1) == 0 and across % 2 ** (n - 1) == 0]
    levels = min(3, fitting[-1]) if levels is None else levels
    check_positive("levels", levels, integer=True)
    if levels not in fitting:
        raise UsageError(
            f"levels={levels} needs a height and width that divide by 2^(levels - 1) = {2 ** (levels - 1)}; "
            f"{height}x{across} takes at most levels={fitting[-1]}"
        )

    def couplings(masks: list[Mask], conditioning: int) -> list[Bijection]:
        made: list[Bijection] = []
        for mask in masks:
            network = ResNet(conditioning, 2 * conditioning, width, blocks)
            made += [Coupling(mask, network, Affine("tanh")), ActNorm(channels)]
        return made

    def checkerboards(n: int) -> list[Bijection]:
        return couplings([Checkerboard(odd=i % 2 == 1) for i in range(n)], channels)

    scales: list[Bijection] = []
    for _ in range(levels - 1):
        first = [ActNorm(channels), *checkerboards(3)]
        channels *= 4
        halves = couplings([Halves(swap=i % 2 == 1) for i in range(3)], channels // 2)
        scales.append(Composition([*first, Squeeze(), *halves]))
        channels //= 2
    scales.append(Composition([ActNorm(channels), *checkerboards(4)]))
    identities = [Composition([]) for _ in range(levels)]  # all latents are standard normal as they are
    return MultiScale(tuple(event_shape), scales, identities[1:], identities[0])
