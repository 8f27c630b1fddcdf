"""Networks in integers: the same numbers on every machine, whatever the order in which it adds.

Integers are held in float64, whose sums are exact up to 2^53, so that they run on the matrix products of any library and
device. Convolutions are products over columns: the algorithms of Winograd and by Fourier transform are not exact.
"""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.actnorm import LOG_SCALE_FACTOR
from glow.codec.tables import exp, power_of_two_above
from glow.errors import UsageError
from glow.networks import ConvNet
from glow.networks.convnet import ScaledConv2d

BITS = 14
"""Values of the flow are integers in units of 2^-BITS."""
WEIGHT_BITS = 15
"""Of the largest weight of every output channel."""
HIDDEN_BITS = 12
"""Hidden units are integers in units of 2^-HIDDEN_BITS."""
AT_ONCE = 4096
"""So many pixels, whose hidden units stay in a processor's cache."""


def rounded(x: Tensor, bits: int) -> Tensor:
    """The nearest integers of x in units of 2^-bits: float64."""
    return (x.detach().double().cpu() * 2.0**bits + 0.5).floor()


class FixedConv(nn.Module):
    """A ``ScaledConv2d`` of integers in units of 2^-bits_in to integers in units of 2^-bits_out."""

    weight: Tensor
    unit: Tensor
    bias: Tensor
    given: Tensor | None

    def __init__(self, layer: ScaledConv2d, bits_in: int, bits_out: int) -> None:
        super().__init__()
        out, fan_in, self.kernel, _ = layer.weight.shape
        factor = exp(layer.logs.detach().double() * LOG_SCALE_FACTOR)
        weight = layer.weight.detach().double().cpu() * factor[:, None, None, None]
        largest = weight.flatten(1).abs().amax(1).tolist()
        bits = torch.tensor([WEIGHT_BITS - power_of_two_above(w) if w else 0 for w in largest]).double()
        weight = (weight * 2 ** bits[:, None, None, None] + 0.5).floor()
        self.largest_input = 2.0 ** (52 - WEIGHT_BITS - math.ceil(math.log2(fan_in * self.kernel**2)))
        # The kernel's places side by side: of the fewer channels.
        self.columns = fan_in <= out
        self.places = list(itertools.product(range(self.kernel), repeat=2))
        places = (
            weight.permute(2, 3, 1, 0).flatten(0, 2)
            if self.columns
            else weight.permute(1, 2, 3, 0).flatten(1)
        )
        self.register_buffer("weight", places.contiguous())
        self.register_buffer("unit", 2.0 ** (bits_out - bits_in - bits))  # from the products' to the outputs'
        bias = rounded(layer.bias.detach().double().cpu() * factor, bits_out).view(1, 1, out)
        if layer.position is not None:
            bias = bias + rounded(layer.position, bits_out).permute(1, 2, 0)
        self.register_buffer("bias", bias.contiguous())
        self.register_buffer("given", None if layer.given is None else rounded(layer.given, bits_out).T)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, H, W, in), which it may change, and one-hot (B, classes) if there is a context -> (B, H, W, out): integers, float64."""
        b, h, w, _ = x.shape
        x = x.clamp_(-self.largest_input, self.largest_input)
        k, r = self.kernel, self.kernel // 2
        if self.columns:
            x = F.pad(x, (0, 0, r, r, r, r))
            sums = self.product(
                torch.cat([x[:, i : i + h, j : j + w] for i, j in self.places], dim=3), self.weight
            )
        else:
            products = self.product(x, self.weight).split(len(self.unit), dim=3)
            sums = x.new_zeros(b, h + 2 * r, w + 2 * r, len(self.unit))
            for (i, j), part in zip(self.places, products, strict=True):
                sums[:, k - 1 - i : k - 1 - i + h, k - 1 - j : k - 1 - j + w] += part
            sums = sums[:, r : r + h, r : r + w]
        y = sums.mul_(self.unit).add_(0.5).floor_().add_(self.bias)
        if self.given is not None and context is not None:
            y += (context.double() @ self.given)[:, None, None]
        return y

    @staticmethod
    def product(x: Tensor, weight: Tensor) -> Tensor:
        """The only sums: exact, since none reaches 2^53."""
        return x @ weight


class FixedNet(nn.Module):
    """A ``ConvNet`` or a single ``ScaledConv2d`` in integers.

    Args:
        network: it.
        bits: of the units of its inputs and outputs.
        name: where it is, for the error.

    Raises:
        UsageError: another kind of network.
    """

    def __init__(self, network: nn.Module, bits: int, name: str) -> None:
        super().__init__()
        layers = list(network) if type(network) is ConvNet else [network]
        convolutions = [layer for layer in layers[::2] if isinstance(layer, ScaledConv2d)]
        if len(convolutions) != len(layers[::2]) or not all(
            isinstance(layer, nn.ReLU) for layer in layers[1::2]
        ):
            raise UsageError(f"{name}: a network {type(network).__name__} has no form in integers")
        units = [bits, *[HIDDEN_BITS] * (len(convolutions) - 1), bits]
        self.layers = nn.ModuleList(
            FixedConv(layer, units[i], units[i + 1]) for i, layer in enumerate(convolutions)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, H, W, in) integers, int64 -> (B, H, W, out), int64; the context goes to the first layer."""
        rows = max(1, AT_ONCE // (x.shape[1] * x.shape[2]))
        parts = [
            (part, None if context is None else context[i * rows : (i + 1) * rows])
            for i, part in enumerate(x.split(rows))
        ]
        return torch.cat([self._few(part.double(), given) for part, given in parts])

    def _few(self, x: Tensor, context: Tensor | None) -> Tensor:
        first, *rest = self.layers
        y = first(x, context)
        for layer in rest:
            y = layer(y.clamp_(min=0))
        return y.long()
