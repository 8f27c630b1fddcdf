"""Glow: generative flow with invertible 1x1 convolutions (Kingma & Dhariwal 2018)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from glow.bijections import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Coupling,
    FullConv1x1,
    InvertibleConv1x1,
    LUConv1x1,
    MultiScale,
    Permutation,
    SplitPrior,
    TopPrior,
)
from glow.errors import UsageError, check_bool, check_choice, check_positive, check_shape
from glow.flows.dequantization import Dequantization
from glow.flows.flow import Flow
from glow.fused import GlowLevel, GlowStep
from glow.networks import ConvNet, ZeroConv2d

PERMUTATIONS: dict[str, Callable[[int], InvertibleConv1x1 | Permutation]] = {
    "lu": LUConv1x1,
    "plain": FullConv1x1,
    "reverse": Permutation.reverse,
    "shuffle": Permutation.shuffle,
}


def glow(
    image_shape: Sequence[int],
    grey_levels: int = 256,
    levels: int | None = None,
    depth: int = 32,
    width: int = 512,
    coupling: str = "affine",
    permutation: str = "lu",
    min_scale: float = 0.0,
    recompute: str = "none",
    learned_top: bool = True,
    class_conditional: bool = False,
    classes: int | None = 0,
) -> Flow:
    """The multi-scale Glow; the defaults are the paper's CIFAR-10 model.

    Args:
        image_shape: (C, H, W).
        grey_levels: number of levels of the integer images, 2^n_bits.
        levels: L; H and W must divide by 2^L. None takes as many as divide, at most 3.
        depth: K, the steps per level.
        width: channels of the hidden layers of the coupling networks.
        coupling: ``affine`` or ``additive``.
        permutation: what mixes the channels: ``lu`` or ``plain`` 1x1 convolution, fixed ``reverse`` or ``shuffle``.
        min_scale: lower bound on the affine scale, in [0, 1); 0 is the paper's.
        recompute: what the backward pass computes again to save memory: ``none``, ``step``, ``reversible``; see
            ``GlowLevel``.
        learned_top: learn the top prior.
        class_conditional: give every class a top prior of its own.
        classes: number of classes, used only with ``class_conditional``.

    Raises:
        UsageError: naming the argument that does not fit.
    """
    check_shape("image_shape", image_shape)
    check_bool("learned_top", learned_top)
    check_bool("class_conditional", class_conditional)
    if len(image_shape) != 3:
        raise UsageError(f"glow models images (C, H, W), but the data has shape {tuple(image_shape)}")
    channels, height, width_pixels = image_shape
    levels = _check_levels(height, width_pixels, levels)
    check_positive("depth", depth, integer=True)
    check_positive("width", width, integer=True)
    check_choice("coupling", coupling, ("affine", "additive"))
    check_choice("permutation", permutation, PERMUTATIONS)
    if class_conditional and not classes:
        raise UsageError("class_conditional=true needs the number of classes: set dataset.classes")

    def step(channels: int) -> GlowStep:
        half = channels // 2
        if coupling == "affine":
            move: Coupling = AffineCoupling(ConvNet(half, 2 * half, width), min_scale=min_scale)
        else:
            move = AdditiveCoupling(ConvNet(half, half, width))
        return GlowStep(ActNorm(channels), PERMUTATIONS[permutation](channels), move)

    level_list, splits = [], []
    for i in range(levels):
        channels *= 4
        level_list.append(GlowLevel([step(channels) for _ in range(depth)], recompute))
        if i < levels - 1:
            channels //= 2
            splits.append(SplitPrior(ZeroConv2d(channels, 2 * channels)))
    n_classes = classes if class_conditional and classes else 0
    bijection = MultiScale(level_list, splits, TopPrior(channels, learned_top, n_classes))
    return Flow(bijection, image_shape, Dequantization(grey_levels), n_classes)


def _check_levels(height: int, width: int, levels: int | None) -> int:
    fitting = [n for n in range(1, 12) if height % 2**n == 0 and width % 2**n == 0]
    if not fitting:
        raise UsageError(f"glow needs an even height and width, got {height}x{width}")
    if levels is None:
        return min(3, fitting[-1])
    check_positive("levels", levels, integer=True)
    if levels not in fitting:
        raise UsageError(
            f"levels={levels} needs a height and width that divide by 2^levels = {2**levels}; "
            f"{height}x{width} takes at most levels={fitting[-1]}"
        )
    return levels
