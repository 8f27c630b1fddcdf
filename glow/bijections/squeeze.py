"""Trade space for channels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from glow.bijections.base import Bijection, Shape, no_log_det
from glow.errors import UsageError


class Squeeze(Bijection):
    """Fold every 2x2 block of pixels into channels (Dinh et al. 2017, section 3.6).

    Channel ``c`` of the pixel at (dy, dx) in its block becomes channel ``4 c + 2 dy + dx``. It permutes
    values, so the log-determinant is zero.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, 4C, H/2, W/2), zeros (B,)."""
        self.output_shape(tuple(x.shape[1:]))
        return F.pixel_unshuffle(x, 2), no_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, 4C, H/2, W/2) -> (B, C, H, W), zeros (B,)."""
        return F.pixel_shuffle(z, 2), no_log_det(z)

    def output_shape(self, shape: Shape) -> Shape:
        """(C, H, W) -> (4C, H/2, W/2). Raises ``UsageError`` when H or W is odd."""
        channels, height, width = shape
        if height % 2 or width % 2:
            raise UsageError(f"a squeeze needs an even height and width, got {height}x{width}")
        return 4 * channels, height // 2, width // 2
