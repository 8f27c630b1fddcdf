"""The same values in another shape: space for channels, images as vectors."""

import math

import torch
from torch import Tensor

from glow.bijections.base import Bijection, Shape, no_log_det
from glow.errors import UsageError


class Squeeze(Bijection):
    """Fold every 2x2 block of pixels into channels (Dinh et al. 2017, section 3.6).

    Channel ``c`` of the pixel at (dy, dx) in its block becomes channel ``4 c + 2 dy + dx``. It permutes
    values, so the log-determinant is zero.

    >>> Squeeze()(torch.zeros(5, 3, 32, 32))[0].shape
    torch.Size([5, 12, 16, 16])
    """

    kind = "mixing"

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, 4C, H/2, W/2), zeros (B,)."""
        _, height, width = self.output_shape(tuple(x.shape[1:]))
        blocks = x.unflatten(3, (width, 2)).unflatten(2, (height, 2))  # (B, C, H/2, dy, W/2, dx)
        return blocks.permute(0, 1, 3, 5, 2, 4).flatten(1, 3), no_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 4C, H/2, W/2) -> (B, C, H, W), zeros (B,)."""
        blocks = z.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)
        return blocks.flatten(4, 5).flatten(2, 3), no_log_det(z)

    def output_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (4C, H/2, W/2). Raises ``UsageError`` when H or W is odd."""
        channels, height, width = shape
        if height % 2 or width % 2:
            raise UsageError(f"a squeeze needs an even height and width, got {height}x{width}")
        return 4 * channels, height // 2, width // 2


class Flatten(Bijection):
    """Elements of any shape as vectors, evenly numbered values before oddly numbered ones.

    Couplings move one half of a vector given the other: neighbouring pixels should lie in different halves (NICE,
    Dinh et al. 2014, section 5.1, separates even and odd components).

    Args:
        shape: of one element.

    >>> Flatten((1, 2, 2))(torch.arange(4).view(1, 1, 2, 2))[0].tolist()
    [[0, 2, 1, 3]]
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, *shape) -> (B, D), zeros (B,)."""
        flat = x.flatten(1)
        return flat[:, self._order(x)], no_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, *shape), zeros (B,)."""
        return z[:, self._order(z).argsort()].unflatten(1, self.shape), no_log_det(z)

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def _order(self, like: Tensor) -> Tensor:
        i = torch.arange(math.prod(self.shape), device=like.device)
        return torch.cat((i[0::2], i[1::2]))
