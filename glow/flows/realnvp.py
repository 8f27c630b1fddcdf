"""RealNVP: affine couplings with alternating masks, of vectors and of images (Dinh et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from glow.bijections import (
    ActNorm,
    Affine,
    AffineCoupling,
    Bijection,
    CheckerboardCoupling,
    Composition,
    MultiScale,
    Squeeze,
)
from glow.errors import UsageError, check_positive, check_shape
from glow.flows.dequantization import Dequantization
from glow.flows.flow import Flow
from glow.flows.vectors import alternating, check_vectors, vector_flow
from glow.networks import MLP, ResNet


def realnvp(
    shape: Sequence[int],
    layers: int = 6,
    hidden: int = 64,
    hidden_layers: int = 2,
    base: str = "normal",
    components: int = 8,
    grey_levels: int | None = None,
    levels: int | None = None,
    width: int = 32,
    blocks: int = 2,
) -> Flow:
    """Affine couplings with tanh-bounded scales.

    Of vectors, even couplings move the second half, odd ones the first. Of images it is the multi-scale architecture of
    section 3.6: at every scale three couplings with checkerboard masks, a squeeze, three with alternating channel masks,
    and half of the channels leave; the last scale has four with checkerboard masks.

    Args:
        shape: (D,), at least two dimensions, or (C, H, W).
        layers: number of couplings of vectors.
        hidden: size of the hidden layers of their networks.
        hidden_layers: number of those.
        base: of vectors, a key of ``BASES``.
        components: of a mixture as the base.
        grey_levels: of images.
        levels: scales of images; H and W must divide by 2^(levels - 1). None takes as many as divide, at most 3.
        width: channels of the residual networks of images.
        blocks: residual blocks in each of them; the paper's is 8 for 32x32 and 4 for 64x64.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    check_shape("shape", shape)
    if len(shape) == 3:
        if base != "normal":
            raise UsageError(f"base must be normal for realnvp of images, got {base!r}")
        return _of_images(shape, grey_levels, levels, width, blocks)
    dimensions = check_vectors("realnvp", shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)

    def coupling(given: int, moved: int, swap: bool) -> AffineCoupling:
        return AffineCoupling(MLP(given, 2 * moved, hidden, hidden_layers), swap=swap, scale="tanh")

    return vector_flow(alternating(dimensions, layers, coupling), shape, dimensions, base, components)


def _of_images(
    shape: Sequence[int], grey_levels: int | None, levels: int | None, width: int, blocks: int
) -> Flow:
    channels, height, across = shape
    if grey_levels is None:
        raise UsageError("realnvp needs the number of grey_levels of images")
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

    def checkerboards(n: int) -> list[Bijection]:
        made: list[Bijection] = []
        for i in range(n):
            network = ResNet(channels, 2 * channels, width, blocks)
            made += [CheckerboardCoupling(network, Affine(), swap=i % 2 == 1), ActNorm(channels)]
        return made

    def by_channels(n: int) -> list[Bijection]:
        half = channels // 2
        made: list[Bijection] = []
        for i in range(n):
            network = ResNet(half, 2 * half, width, blocks)
            made += [AffineCoupling(network, swap=i % 2 == 1, scale="tanh"), ActNorm(channels)]
        return made

    scales: list[Bijection] = []
    for _ in range(levels - 1):
        first = [ActNorm(channels), *checkerboards(3)]
        channels *= 4
        scales.append(Composition([*first, Squeeze(), *by_channels(3)]))
        channels //= 2
    scales.append(Composition([ActNorm(channels), *checkerboards(4)]))
    nothing = [Composition([]) for _ in range(levels)]  # all latents are standard normal as they are
    return Flow(MultiScale(scales, nothing[1:], nothing[0]), shape, Dequantization(grey_levels))
