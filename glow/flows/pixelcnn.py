"""The gated PixelCNN (van den Oord et al. 2016a, b; Salimans et al. 2017)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from glow.errors import UsageError, check_positive
from glow.flows.pixels import PixelByPixel
from glow.networks import GatedCNN
from glow.seeds import draw


class PixelCNN(PixelByPixel):
    """Images pixel by pixel, by gated causal convolutions.

    Args:
        event_shape: (C, H, W).
        grey_levels: of the images.
        width: channels of the hidden layers.
        layers: gated layers.
        reach: how many rows, and columns, one of them sees back.
        components: logistics of the mixture.
        dropout: in training, of the layers' channels.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> PixelCNN((1, 4, 4), 17, width=8, layers=1).eval().sample(3).shape
    torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        grey_levels: int | None = 256,
        width: int = 48,
        layers: int = 6,
        reach: int = 3,
        components: int = 5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(event_shape, grey_levels, components)
        for name, value in {"width": width, "layers": layers, "reach": reach}.items():
            check_positive(name, value, integer=True)
        check_positive("dropout", dropout, zero=True)
        if dropout >= 1:
            raise UsageError(f"dropout must be in [0, 1), got {dropout}")
        self.network = GatedCNN(event_shape[0], self.pixel.parameters, width, layers, reach)
        self.dropout, self.kept = dropout, (layers, width)

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Of dropout, which is for training: uniform in [0, 1), (n, layers, width); else None."""
        if not (self.training and self.dropout):
            return None
        return draw(torch.rand, n, *self.kept, generator=generator, device=self.device, dtype=self.dtype)

    def parameters_of(self, x: Tensor, noise: Tensor | None) -> Tensor:
        kept = None if noise is None else (noise.movedim(1, 0) >= self.dropout) / (1 - self.dropout)
        return self.network(x, kept)
