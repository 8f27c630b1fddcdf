"""Glow: generative flow with invertible 1x1 convolutions (Kingma & Dhariwal 2018)."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from glow.bijections import (
    ActNorm,
    Affine,
    Bijection,
    Composition,
    Coupling,
    Elementwise,
    FullConv1x1,
    Gaussianize,
    Halves,
    InvertibleConv1x1,
    LogisticMixture,
    LUConv1x1,
    MultiScale,
    Permutation,
    Repeated,
    Shift,
    SplitPrior,
    Squeeze,
    TopPrior,
)
from glow.distributions.dequantization import Dequantization
from glow.errors import UsageError, check_choice, check_positive
from glow.flows.flow import Flow
from glow.fused import FusedLevel
from glow.networks import ConvNet, ZeroConv2d

PERMUTATIONS: dict[str, Callable[[int], InvertibleConv1x1 | Permutation]] = {
    "lu": LUConv1x1,
    "full": FullConv1x1,
    "reverse": Permutation.reverse,
    "shuffle": Permutation.shuffle,
}


class Glow(Flow):
    """The multi-scale Glow; the defaults are the paper's CIFAR-10 model.

    Args:
        event_shape: (C, H, W).
        grey_levels: number of levels of the integer images, 2^n_bits.
        levels: L; H and W must divide by 2^L. None takes as many as divide, at most 3.
        depth: K, the steps per level.
        width: channels of the hidden layers of the coupling networks.
        coupling: ``affine``, ``additive``, or ``mixture``, of logistics: slower, see ``LogisticMixture``.
        components: logistics in every mixture.
        permutation: what mixes the channels: ``lu`` or ``full`` 1x1 convolution, fixed ``reverse`` or ``shuffle``.
        min_scale: lower bound on the affine scale, in [0, 1); 0 is the paper's.
        recompute: what the backward pass computes again to save memory: ``none``, ``step``, ``reversible``; see
            ``FusedLevel``.
        kernels: what computes the coupling networks on a GPU: ``torch`` or ``triton``; see ``FusedLevel``.
        learned_top: learn the top prior.
        gaussianize: begin with the marginal distribution of each channel, see ``Gaussianize``.
        noise_width: channels of the hidden layers of a network that chooses the noise of dequantization behind the
            marginals (mean-field variational dequantization); 0 for none, and none without ``gaussianize``.
        position: tell the coupling networks and the priors where in the image they are: a shift per pixel in the first and
            last layer of every network, and a top prior per pixel.
        class_conditional: tell the coupling networks and the top prior the label; None does so where there are classes.
        classes: number of classes, used only with ``class_conditional``.
        network: makes a coupling's network, (B, in_channels, H, W) -> (B, out_channels, H, W), called as
            ``network(in_channels=, out_channels=, size=(H, W), context_channels=)``, of the last two those that its
            signature names; None for a ``ConvNet`` of that width. Others than a ``ConvNet`` take the way through the
            steps' modules, which is slower.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> import torch
    >>> flow = Glow((3, 8, 8), depth=2, width=16)
    >>> images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    >>> flow.initialize(images)
    >>> flow.log_prob(images).shape, flow.latent_shapes
    (torch.Size([4]), [(6, 4, 4), (12, 2, 2), (48, 1, 1)])
    >>> flow.eval().sample(2, temperature=0.7).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        grey_levels: int = 256,
        levels: int | None = None,
        depth: int = 32,
        width: int = 512,
        coupling: str = "affine",
        components: int = 8,
        permutation: str = "lu",
        min_scale: float = 0.0,
        recompute: str = "none",
        kernels: str = "torch",
        learned_top: bool = True,
        gaussianize: bool = False,
        noise_width: int = 0,
        position: bool = False,
        class_conditional: bool | None = False,
        classes: int | None = 0,
        network: Callable[..., nn.Module] | None = None,
    ) -> None:
        if len(event_shape) != 3:
            raise UsageError(f"Glow models images (C, H, W), but the data has shape {tuple(event_shape)}")
        channels, height, across = event_shape
        levels = _levels(height, across, levels)
        check_positive("depth", depth, integer=True)
        check_positive("width", width, integer=True)
        check_positive("noise_width", noise_width, integer=True, zero=True)
        maps: dict[str, Elementwise] = {
            "affine": Affine(min_scale=min_scale),
            "additive": Shift(),
            "mixture": LogisticMixture(components, min_scale),
        }
        check_choice("coupling", coupling, maps)
        elementwise = maps[coupling]
        check_choice("permutation", permutation, PERMUTATIONS)
        if class_conditional and not classes:
            raise UsageError("class_conditional=True needs the number of classes")
        make = network or partial(ConvNet, width=width, position=position)
        n_classes = 0 if class_conditional is False else classes or 0

        def step(channels: int, size: tuple[int, int]) -> Bijection:
            half = channels // 2
            net = make_network(make, half, elementwise.parameters * half, size, n_classes)
            return Composition(
                [
                    ActNorm(channels),
                    PERMUTATIONS[permutation](channels),
                    Coupling(Halves(), net, elementwise),
                ],
                numbered=False,
            )

        level_bijections, splits = [], []
        for i in range(levels):
            channels, height, across = 4 * channels, height // 2, across // 2
            steps = [step(channels, (height, across)) for _ in range(depth)]
            level_bijections.append(
                Composition([Squeeze(), repeated(steps, recompute, kernels)], numbered=False)
            )
            if i < levels - 1:
                channels //= 2
                where = (height, across) if position else None
                splits.append(SplitPrior(ZeroConv2d(channels, 2 * channels, size=where)))
        top = TopPrior(channels, learned_top, n_classes, (height, across) if position else None)
        bijection: Bijection = MultiScale(tuple(event_shape), level_bijections, splits, top)
        if gaussianize:
            c, *size = event_shape
            noise = ConvNet(c, 2 * c, noise_width, (size[0], size[1]), position) if noise_width else None
            bijection = Composition([Gaussianize(c, grey_levels, noise), bijection], numbered=False)
        super().__init__(bijection, event_shape, Dequantization(grey_levels), n_classes)


def repeated(steps: Sequence[Bijection], recompute: str, kernels: str) -> Repeated:
    """K equal steps, by the kernels where these know them."""
    if FusedLevel.supports(steps[0]):
        return FusedLevel(steps, recompute, kernels)
    for name, value, only in (("recompute", recompute, "none"), ("kernels", kernels, "torch")):
        if value != only:
            raise UsageError(
                f"{name} must be {only} with coupling=mixture or a network of one's own, got {value!r}"
            )
    return Repeated(steps)


def make_network(
    network: Callable[..., nn.Module],
    in_channels: int,
    out_channels: int,
    size: tuple[int, int],
    context_channels: int,
) -> nn.Module:
    """Call ``network`` with the channels, and with size and context_channels where its signature takes them."""
    known = inspect.signature(network).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in known)
    names = {p.name for p in known}
    offered = {"size": size, "context_channels": context_channels}
    optional = {name: value for name, value in offered.items() if takes_all or name in names}
    return network(in_channels=in_channels, out_channels=out_channels, **optional)


def _levels(height: int, width: int, levels: int | None) -> int:
    fitting = [n for n in range(1, 12) if height % 2**n == 0 and width % 2**n == 0]
    if not fitting:
        raise UsageError(f"Glow needs an even height and width, got {height}x{width}")
    if levels is None:
        return min(3, fitting[-1])
    check_positive("levels", levels, integer=True)
    if levels not in fitting:
        raise UsageError(
            f"levels={levels} needs a height and width that divide by 2^levels = {2**levels}; "
            f"{height}x{width} takes at most levels={fitting[-1]}"
        )
    return levels
