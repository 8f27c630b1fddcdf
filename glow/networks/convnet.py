"""The convolutional network that conditions a coupling of images, and its layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.actnorm import LOG_SCALE_FACTOR, standardize
from glow.bijections.base import DataDependent

INITIAL_SD = 0.05


class ScaledConv2d(nn.Module):
    """A convolution whose output is shifted and scaled per channel, with the scale folded into its weights.

    ``y = (conv(x) + bias) * exp(3 logs)`` as one convolution: under autocast no float32 factor touches
    the activations, so that they stay in the lower precision.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, weight_sd: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel) * weight_sd)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.logs = nn.Parameter(torch.zeros(out_channels))

    def scaled(self) -> tuple[Tensor, Tensor]:
        """The scaled weight (out, in, kernel, kernel) and bias (out,); with a leading K if K layers are stacked."""
        scale = (self.logs * LOG_SCALE_FACTOR).exp()
        return self.weight * scale[..., None, None, None], self.bias * scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return F.conv2d(x, *self.scaled(), padding="same")


class ActNormConv2d(ScaledConv2d, DataDependent):
    """A convolution followed by ActNorm (``conv2d`` of the release); weights start as N(0, 0.05^2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__(in_channels, out_channels, kernel, INITIAL_SD)

    def initialize(self, x: Tensor) -> None:
        """Set bias and scale so that the output on ``x`` (B, C, H, W) is standardized per channel."""
        shift, log_scale = standardize(F.conv2d(x, self.weight, padding="same"))
        self.bias.data.copy_(shift)
        self.logs.data.copy_(log_scale / LOG_SCALE_FACTOR)


class ZeroConv2d(ScaledConv2d):
    """A 3x3 convolution that starts at zero (``conv2d_zeros`` of the release)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, weight_sd=0.0)


class ConvNet(nn.Sequential):
    """3x3 -> ReLU -> 1x1 -> ReLU -> 3x3 (Kingma & Dhariwal 2018, section 5 and ``f`` of the release).

    It starts as the zero function. (B, in_channels, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: channels of the conditioning half.
        out_channels: number of parameters per pixel that the coupling needs.
        width: channels of both hidden layers; the paper's 512.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 512) -> None:
        super().__init__(
            ActNormConv2d(in_channels, width, 3),
            nn.ReLU(inplace=True),
            ActNormConv2d(width, width, 1),
            nn.ReLU(inplace=True),
            ZeroConv2d(width, out_channels),
        )
