"""The Diagonal BiLSTM: each pixel is told all before it by states that cross the image along its diagonals."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.networks.causal import CausalNet
from glow.networks.gated import Conv2d


def diagonals(height: int, across: int, device: torch.device | None = None) -> tuple[Tensor, list[int]]:
    """The pixels, counted row by row, in the order of their diagonals i + j, from above in each; how many each has.

    The paper skews the image instead, which moves diagonals to columns, and computes what lies in its empty corners, too.

    >>> diagonals(2, 3)
    (tensor([0, 1, 3, 2, 4, 5]), [1, 2, 2, 1])
    """
    rows, columns = torch.arange(height, device=device), torch.arange(across, device=device)
    last = height + across - 1
    sizes = [min(t + 1, height, across, last - t) for t in range(last)]
    return (rows[:, None] + columns).flatten().argsort(stable=True), sizes


class Linear(nn.Linear):
    """A linear layer whose weight is a matrix to optimizers such as ``glow.training.Muon``."""

    matrices: ClassVar[dict[str, int]] = {"weight": 2}


class _Kept:
    """What a layer keeps while images are filled: states (1, B, width)."""

    def __init__(self, zero: Tensor, across: int) -> None:
        self.zero = self.left = self.cell = zero  # of the pixel to the left
        self.above, self.right = [zero] * across, [zero] * across  # of the row above, by direction
        self.gates: list[Tensor] = []  # of this row, for the direction that waits until it is complete


class DiagonalBiLSTM(nn.Module):
    r"""A long short-term memory in two directions over the pixels (van den Oord et al. 2016, sections 3.2 and 3.3).

    .. math:: [o, f, i] = \sigma(a), \quad g = \tanh(b), \quad [a, b]_{ij} = K^{is} x_{ij} + K^{ss} [h_{i,j-1}, h_{i-1,j}], \quad
        c_{ij} = f c_{i,j-1} + i g, \quad h_{ij} = o \tanh c_{ij}

    and the same from right to left. The states of a diagonal depend on those of the diagonal before alone, so that all of them are
    computed at once. To the right of a pixel lies what it must not see: the states from the right are moved down a row (figure 3).
    What both directions found is added to x.

    Args:
        width: of the states of a direction; x has twice as many channels.
    """

    matrices: ClassVar[dict[str, int]] = {"state": 2}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gates = Linear(2 * width, 8 * width)
        self.state = nn.Parameter(torch.empty(2, 4 * width, 2 * width))
        self.out = Linear(2 * width, 2 * width)
        nn.init.uniform_(self.state, -((2 * width) ** -0.5), (2 * width) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(H, W, B, 2 width) -> the next layer of that shape, each pixel's from itself and those before it."""
        height, across, b, _ = x.shape
        order, sizes = diagonals(height, across, x.device)
        mirror = order + across - 1 - 2 * (order % across)
        left, right = self.gates(x.flatten(0, 1)).chunk(2, dim=-1)  # (H W, B, 4 width)
        gates = torch.stack((left[order], right[mirror])).flatten(1, 2)
        h = cell = gates.new_zeros(2, 0, self.width)
        states = []
        for t, gate in enumerate(gates.split([b * size for size in sizes], dim=1)):
            # Zeros beyond the border: above the first row, and left of a row that begins.
            top, bottom = b * (t < across), b * (t < height)
            h = F.pad(h, (0, 0, top, bottom))
            cell = F.pad(cell, (0, 0, 0, bottom))[:, b - top :]
            h, cell = _step(gate, h[:, b:], h[:, : h.shape[1] - b], cell, self.state)
            states.append(h)
        left, right = torch.cat(states, dim=1).unflatten(1, (height * across, b))
        left, right = left[order.argsort()], right[mirror.argsort()]
        found = torch.cat((left, F.pad(right, (0, 0, 0, 0, across, -across))), dim=-1)
        return x + self.out(found).unflatten(0, (height, across))

    def begin(self, x: Tensor, across: int) -> _Kept:
        """Nothing yet, for as many images as x has, of its device and type."""
        return _Kept(x.new_zeros(1, len(x), self.width), across)

    def next_row(self, kept: _Kept) -> None:
        """The states from the right of the row that is complete, if there is one."""
        h = cell = kept.zero
        for j in reversed(range(len(kept.gates))):
            h, cell = _step(kept.gates[j], h, kept.right[j], cell, self.state[1:])
            kept.right[j] = h
        kept.left, kept.cell, kept.gates = kept.zero, kept.zero, []

    def next_pixel(self, x: Tensor, kept: _Kept) -> Tensor:
        """What ``forward`` gives for the next pixel of the row: (B, 2 width) -> the same."""
        j = len(kept.gates)
        left, right = self.gates(x)[None].chunk(2, dim=-1)
        kept.gates.append(right)
        kept.left, kept.cell = _step(left, kept.left, kept.above[j], kept.cell, self.state[:1])
        kept.above[j] = kept.left
        return x + self.out(torch.cat((kept.left[0], kept.right[j][0]), dim=-1))


def _step(gates: Tensor, left: Tensor, above: Tensor, cell: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The next states h and c (D, N, width) of D directions: their gates (D, N, 4 width) without states, the states before."""
    gates = torch.baddbmm(gates, torch.cat((left, above), dim=-1), weight.mT)
    width = cell.shape[-1]
    opened, content = gates.split([3 * width, width], dim=-1)
    o, f, i = opened.sigmoid().chunk(3, dim=-1)
    cell = f * cell + i * content.tanh()
    return o * cell.tanh(), cell


class DiagonalRNN(CausalNet):
    """Layers of Diagonal BiLSTMs (van den Oord et al. 2016, table 1).

    The first convolution, of 7x7 with mask A, sees what comes before a pixel; what the layers are told of a pixel therefore does
    not have the pixel in it. The last pixel of a row would reach few of the next row's: a column beyond it is told of it, and tells
    them from the right.

    Args:
        channels: C.
        parameters: P.
        width: of the states of a direction.
        layers: how many.
    """

    def __init__(self, channels: int, parameters: int, width: int, layers: int) -> None:
        super().__init__()
        self.first = Conv2d(channels, 2 * width, (4, 7))  # the lower three rows would be masked
        self.layers = nn.ModuleList(DiagonalBiLSTM(width) for _ in range(layers))
        self.head = nn.Sequential(
            nn.ReLU(), Linear(2 * width, 2 * width), nn.ReLU(), Linear(2 * width, parameters)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self._begin(F.pad(x, (3, 4, 3, 0))).permute(2, 3, 0, 1).contiguous()  # (H, W + 1, B, 2 width)
        for layer in self.layers:
            h = layer(h)
        return self.head(h[:, :-1]).permute(2, 3, 0, 1)

    def unroll(self, x: Tensor, choose: Callable[[Tensor, int, int], Tensor]) -> Tensor:
        height, across = x.shape[2:]
        image = F.pad(x, (3, 4, 3, 0))
        layers = [layer for layer in self.layers if isinstance(layer, DiagonalBiLSTM)]
        every = [layer.begin(x, across + 1) for layer in layers]
        for i in range(height):
            for layer, kept in zip(layers, every, strict=True):
                layer.next_row(kept)
            for j in range(across + 1):
                h = self._begin(image[:, :, i : i + 4, j : j + 7])[..., 0, 0]
                for layer, kept in zip(layers, every, strict=True):
                    h = layer.next_pixel(h, kept)
                if j < across:
                    image[:, :, 3 + i, 3 + j] = choose(self.head(h)[..., None, None], i, j)
        return image[:, :, 3:, 3:-4]

    def _begin(self, padded: Tensor) -> Tensor:
        before = torch.arange(4 * 7, device=padded.device).view(4, 7) < 3 * 7 + 3
        return F.conv2d(padded, self.first.weight * before, self.first.bias)
