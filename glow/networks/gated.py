"""Causal convolutions of images: each pixel is told those above it and those to its left."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.networks.causal import CausalNet


class Conv2d(nn.Conv2d):
    """A convolution whose weight is a matrix to optimizers such as ``glow.training.Muon``."""

    matrices: ClassVar[dict[str, int]] = {"weight": 4}


class GatedLayer(nn.Module):
    """Two stacks of gated convolutions, without a blind spot (van den Oord et al. 2016b, figure 2).

    The vertical stack sees its own row and those above, the horizontal one the pixel and those to its left, and what the vertical
    stack knows. That a pixel is not told itself is for the inputs to care, see ``GatedCNN``.

    Args:
        width: channels of both stacks.
        reach: how many rows, and columns, a pixel sees back, its own included.
    """

    def __init__(self, width: int, reach: int) -> None:
        super().__init__()
        self.vertical = Conv2d(width, 2 * width, (reach, 2 * reach - 1))
        self.down = Conv2d(2 * width, 2 * width, 1)
        self.horizontal = Conv2d(width, 2 * width, (1, reach))
        self.out = Conv2d(width, width, 1)

    def above(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The vertical stack, padded by what it sees -> its next layer (B, width, H, W), and (B, 2 width, H, W) for the other."""
        seen = self.vertical(v)
        return _gated(seen), self.down(seen)

    def left(self, seen: Tensor, h: Tensor, residual: Tensor, kept: Tensor | None = None) -> Tensor:
        """What the vertical stack saw, the horizontal one, padded, and without -> its next layer (B, width, H, W).

        ``kept`` (B, width) are the factors of dropout on what is added; None for ones.
        """
        added = _gated(seen + self.horizontal(h))
        return residual + self.out(added if kept is None else added * kept[:, :, None, None])


class GatedCNN(CausalNet):
    """Gated layers one behind another (van den Oord et al. 2016b).

    Both stacks begin with the image moved by a row or a column. A channel of ones beside it tells the border.

    Args:
        channels: C.
        parameters: P.
        width: channels of the hidden layers.
        layers: gated layers.
        reach: see ``GatedLayer``.
    """

    def __init__(self, channels: int, parameters: int, width: int, layers: int, reach: int = 3) -> None:
        super().__init__()
        self.reach = reach
        self.from_above = Conv2d(channels + 1, width, (reach, 2 * reach - 1))
        self.from_left = Conv2d(channels + 1, width, (1, reach))
        self.layers = nn.ModuleList(GatedLayer(width, reach) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), Conv2d(width, width, 1), nn.ReLU(), Conv2d(width, parameters, 1))

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, P, H, W); ``kept`` (layers, B, width) are the factors of dropout."""
        k = self.reach - 1
        x = F.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
        v = self.from_above(F.pad(x, (k, k, k + 1, 0))[:, :, :-1])
        h = self.from_left(F.pad(x, (k + 1, 0))[..., :-1])
        for i, layer in enumerate(self._layers()):
            v, seen = layer.above(F.pad(v, (k, k, k, 0)))
            h = layer.left(seen, F.pad(h, (k, 0)), h, None if kept is None else kept[i])
        return self.head(h)

    def unroll(self, x: Tensor, choose: Callable[[Tensor, int, int], Tensor]) -> Tensor:
        k, r, (b, _, height, across) = self.reach - 1, self.reach, x.shape
        width = self.from_left.out_channels
        image = F.pad(torch.cat((x, torch.ones_like(x[:, :1])), dim=1), (r, k, r, 0))
        layers = self._layers()
        rows = [x.new_zeros(b, width, r, across + 2 * k) for _ in self.layers]  # the last ones
        for i in range(height):
            v, seen = self.from_above(image[:, :, i : i + r, 1:]), []
            for layer, row in zip(layers, rows, strict=True):
                row[:, :, :-1] = row[:, :, 1:].clone()
                row[:, :, -1, k : k + across] = v[:, :, 0]
                v, s = layer.above(row)
                seen.append(s)
            columns = [x.new_zeros(b, width, 1, k + across) for _ in self.layers]
            for j in range(across):
                h = self.from_left(image[:, :, r + i : r + i + 1, j : j + r])
                for layer, s, column in zip(layers, seen, columns, strict=True):
                    column[..., k + j] = h[..., 0]
                    h = layer.left(s[..., j : j + 1], column[..., j : j + r], h)
                image[:, :-1, r + i, r + j] = choose(self.head(h), i, j)
        return image[:, :-1, r:, r : r + across]

    def _layers(self) -> list[GatedLayer]:
        return [layer for layer in self.layers if isinstance(layer, GatedLayer)]


def _gated(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return torch.tanh(a) * torch.sigmoid(b)
