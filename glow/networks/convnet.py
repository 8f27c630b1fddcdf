"""The convolutional network that conditions a coupling of images, and its layers."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.actnorm import LOG_SCALE_FACTOR, standardize
from glow.bijections.base import DataDependent

INITIAL_SD = 0.05


class ScaledConv2d(nn.Module):
    """A convolution whose output is shifted and scaled per channel, with the scale folded into its weights.

    ``y = (conv(x) + bias) * exp(3 logs) + shift`` as one convolution: under autocast no float32 factor touches
    the activations, so that they stay in the lower precision. The shift, where there is one, is a number for every channel
    and pixel, and a linear function of the context; both start at zero.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel: its side.
        weight_sd: standard deviation of the initial weights.
        size: (H, W) of the images, which gives every pixel a shift of its own; None for none.
        context_channels: numbers in the context; 0 for none.
    """

    matrices: ClassVar[dict[str, int]] = {"weight": 4}
    """Parameters that are matrices, or stacks of such, and how many of their last dimensions are rows and columns: the
    first of these is the rows. What optimizers of matrices, such as ``glow.training.Muon``, go by."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        weight_sd: float,
        size: tuple[int, int] | None = None,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel) * weight_sd)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.logs = nn.Parameter(torch.zeros(out_channels))
        self.position = nn.Parameter(torch.zeros(out_channels, *size)) if size else None
        self.given = nn.Parameter(torch.zeros(out_channels, context_channels)) if context_channels else None

    def scaled(self) -> tuple[Tensor, Tensor]:
        """The scaled weight (out, in, kernel, kernel) and bias (out,); with a leading K if K layers are stacked."""
        scale = (self.logs * LOG_SCALE_FACTOR).exp()
        return self.weight * scale[..., None, None, None], self.bias * scale

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W), and (B, context_channels) if there is one -> (B, out_channels, H, W)."""
        y = F.conv2d(x, *self.scaled(), padding="same")
        if self.position is not None:
            y = y + self.position.to(y.dtype)
        if self.given is not None and context is not None:
            y = y + F.linear(context, self.given).to(y.dtype)[:, :, None, None]
        return y


class ActNormConv2d(ScaledConv2d, DataDependent):
    """A convolution followed by ActNorm (``conv2d`` of the release); weights start as N(0, 0.05^2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, **shift: Any) -> None:
        super().__init__(in_channels, out_channels, kernel, INITIAL_SD, **shift)

    def initialize(self, x: Tensor) -> None:
        """Set bias and scale so that the output on ``x`` (B, C, H, W) is standardized per channel."""
        shift, log_scale = standardize(F.conv2d(x, self.weight, padding="same"))
        self.bias.data.copy_(shift)
        self.logs.data.copy_(log_scale / LOG_SCALE_FACTOR)


class ZeroConv2d(ScaledConv2d):
    """A 3x3 convolution that starts at zero (``conv2d_zeros`` of the release)."""

    def __init__(self, in_channels: int, out_channels: int, **shift: Any) -> None:
        super().__init__(in_channels, out_channels, 3, weight_sd=0.0, **shift)


class ConvNet(nn.Sequential):
    """3x3 -> ReLU -> 1x1 -> ReLU -> 3x3 (Kingma & Dhariwal 2018, section 5 and ``f`` of the release).

    It starts as the zero function. (B, in_channels, H, W), and (B, context_channels) if there is one -> (B, out_channels,
    H, W). The context shifts the first hidden layer.

    Args:
        in_channels: channels of the conditioning half.
        out_channels: number of parameters per pixel that the coupling needs.
        width: channels of both hidden layers; the paper's 512.
        size: (H, W) of the images.
        position: give every pixel a shift of its own in the first and in the last layer, so that the network knows where it is.
        context_channels: numbers in the context; 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 512,
        size: tuple[int, int] | None = None,
        position: bool = False,
        context_channels: int = 0,
    ) -> None:
        where = size if position else None
        super().__init__(
            ActNormConv2d(in_channels, width, 3, size=where, context_channels=context_channels),
            nn.ReLU(inplace=True),
            ActNormConv2d(width, width, 1),
            nn.ReLU(inplace=True),
            ZeroConv2d(width, out_channels, size=where),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        first, *rest = self
        h = first(x, context)
        for layer in rest:
            h = layer(h)
        return h
