"""The contract of networks that see pixels in order."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class CausalNet(nn.Module, ABC):
    """Pixels (B, C, H, W) -> numbers (B, P, H, W), each pixel's from the pixels above and to the left, row by row."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """See above, in one pass."""

    @abstractmethod
    def unroll(self, x: Tensor, choose: Callable[[Tensor, int, int], Tensor]) -> Tensor:
        """Fill an image pixel by pixel, each computed once: what earlier ones left in the hidden layers is kept.

        Args:
            x: (B, C, H, W); its values are replaced.
            choose: called with what ``forward`` gives for a pixel (B, P, 1, 1), its row and column -> its value (B, C).
        """
