"""The PixelRNN with Diagonal BiLSTMs (van den Oord et al. 2016)."""

from collections.abc import Sequence

from glow.errors import check_positive
from glow.flows.pixels import PixelByPixel
from glow.networks import DiagonalRNN


class PixelRNN(PixelByPixel):
    """Images pixel by pixel, by long short-term memories along the diagonals.

    Args:
        event_shape: (C, H, W).
        grey_levels: of the images.
        width: of the states of a direction; layers have twice as many channels.
        layers: Diagonal BiLSTMs.
        components: logistics of the mixture.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> PixelRNN((1, 4, 4), 17, width=8, layers=1).eval().sample(3).shape
    torch.Size([3, 1, 4, 4])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        grey_levels: int | None = 256,
        width: int = 32,
        layers: int = 3,
        components: int = 5,
    ) -> None:
        super().__init__(event_shape, grey_levels, components)
        check_positive("width", width, integer=True)
        check_positive("layers", layers, integer=True)
        self.network = DiagonalRNN(event_shape[0], self.pixel.parameters, width, layers)
