"""WaveNet (van den Oord et al. 2016, "WaveNet: A Generative Model for Raw Audio")."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from glow.errors import UsageError, check_positive
from glow.flows.pixels import PixelByPixel
from glow.networks import DilatedCNN


class WaveNet(PixelByPixel):
    """Signals sample by sample, by dilated causal convolutions.

    A sample is told the ``stacks * (2 ** layers - 1) + 1`` before it. Its distribution is a mixture of discretized logistics
    in place of the paper's softmax, so that neighbouring levels know of one another.

    Args:
        event_shape: (C, T).
        grey_levels: of a sample.
        width: channels of the hidden layers.
        layers: of a stack: dilations 1, 2, 4, ..., 2^(layers - 1), which must be at most T.
        stacks: how often these are gone through.
        components: logistics of the mixture.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> WaveNet((1, 8), 17, width=8, layers=3).sample(2).shape
    torch.Size([2, 1, 8])
    """

    takes: ClassVar[str] = "signals"

    def __init__(
        self,
        event_shape: Sequence[int],
        grey_levels: int | None = 256,
        width: int = 32,
        layers: int = 8,
        stacks: int = 2,
        components: int = 5,
    ) -> None:
        super().__init__(event_shape, grey_levels, components)
        for name, value in {"width": width, "layers": layers, "stacks": stacks}.items():
            check_positive(name, value, integer=True)
        channels, length = self.event_shape
        if layers > length.bit_length():
            raise UsageError(f"layers={layers}: a dilation of 2^{layers - 1} in signals of {length} samples")
        self.network = DilatedCNN(channels, self.pixel.parameters, width, layers, stacks)
        with torch.no_grad():  # logistics side by side at the start
            each = self.network.last.bias[components:].view(components, -1)  # type: ignore[index]
            each[:, :channels] = torch.linspace(-0.8, 0.8, components)[:, None]
            each[:, channels : 2 * channels] = -math.log(components)
