"""Networks that give a coupling its parameters, a flow in continuous time its velocity, a residual block its contraction, and pixels
their distribution."""

from glow.networks.causal import CausalNet
from glow.networks.convnet import ActNormConv2d, ConvNet, ScaledConv2d, ZeroConv2d
from glow.networks.diagonal_lstm import DiagonalRNN
from glow.networks.dilated import DilatedCNN
from glow.networks.gated import GatedCNN
from glow.networks.lipschitz import LipschitzMLP
from glow.networks.made import MADE
from glow.networks.mlp import MLP
from glow.networks.resnet import ResNet
from glow.networks.velocity import Velocity

__all__ = [
    "MADE",
    "MLP",
    "ActNormConv2d",
    "CausalNet",
    "ConvNet",
    "DiagonalRNN",
    "DilatedCNN",
    "GatedCNN",
    "LipschitzMLP",
    "ResNet",
    "ScaledConv2d",
    "Velocity",
    "ZeroConv2d",
]
