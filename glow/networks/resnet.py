"""The residual network that conditions RealNVP's couplings of images."""

from torch import Tensor, nn
from torch.nn import functional as F

from glow.networks.convnet import ActNormConv2d, ZeroConv2d


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3, with ActNorm where the paper has batch normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ActNormConv2d(width, width, 3)
        self.second = ActNormConv2d(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W)."""
        return x + self.second(F.relu(self.first(F.relu(x))))


class ResNet(nn.Sequential):
    """Convolution, residual blocks, convolution (Dinh et al. 2017, section 3.3 and 4.1); it starts as the zero function.

    Batch normalization, which lets the images of a batch influence one another, and weight normalization are replaced by
    convolutions with ActNorm (Kingma & Dhariwal 2018, section 3.1), for the same purpose.
    (B, in_channels, H, W) -> (B, out_channels, H, W).

    Args:
        in_channels: channels of the conditioning part.
        out_channels: number of parameters per pixel that the coupling needs.
        width: channels in between.
        blocks: residual blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int = 32, blocks: int = 2) -> None:
        super().__init__(
            ActNormConv2d(in_channels, width, 3),
            *(ResidualBlock(width) for _ in range(blocks)),
            nn.ReLU(),
            ZeroConv2d(width, out_channels),
        )
