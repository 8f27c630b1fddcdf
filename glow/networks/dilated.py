"""Dilated causal convolutions of signals: each sample is told those before it, as far back as the dilations reach."""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.mu_law import expand
from glow.networks.causal import CausalNet
from glow.networks.gated import Conv2d


class DilatedLayer(nn.Module):
    r"""A gated convolution of two samples, ``dilation`` apart, with a residual and a skip connection.

    .. math:: z = \tanh(W_f * h) \odot \sigma(W_g * h), \qquad h' = h + V z, \quad skip = U z

    (van den Oord et al. 2016, equation 2 and figure 4).

    Args:
        width: channels.
        dilation: in samples.
    """

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.taps = Conv2d(2 * width, 2 * width, 1)
        self.out = Conv2d(width, 2 * width, 1)

    def forward(self, h: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
        """The signal and what it was ``dilation`` samples earlier -> the next layer's and the skip, all (B, width, 1, T)."""
        f, g = self.taps(torch.cat((earlier, h), dim=1)).chunk(2, dim=1)
        residual, skip = self.out(f.tanh() * g.sigmoid()).chunk(2, dim=1)
        return h + residual, skip


class DilatedCNN(CausalNet):
    """Gated layers of dilations 1, 2, 4, ... one behind another, of whose skips two more layers make numbers (van den Oord et al. 2016).

    A signal is an image of one row. It enters moved by a sample, companded and as the sound that it stands for (the paper's one-hot
    vectors let the network learn this map), and beside it a channel of ones that tells the border.

    Args:
        channels: C.
        parameters: P.
        width: channels of the hidden layers.
        layers: of a stack, the last one's dilation is ``2 ** (layers - 1)``.
        stacks: how often the dilations are gone through.
    """

    def __init__(self, channels: int, parameters: int, width: int, layers: int, stacks: int = 1) -> None:
        super().__init__()
        self.start = Conv2d(2 * channels + 1, width, 1)
        self.layers = nn.ModuleList(DilatedLayer(width, 2 ** (i % layers)) for i in range(layers * stacks))
        self.hidden = Conv2d(width, width, 1)
        self.last = Conv2d(width, parameters, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, 1, T) -> (B, P, 1, T)."""
        length = x.shape[-1]
        moved = F.pad(_told(x), (1, 0))[..., :length]
        return self._through(moved, lambda h, layer, i: F.pad(h, (layer.dilation, 0))[..., :length])

    def unroll(self, x: Tensor, choose: Callable[[Tensor, int, int], Tensor]) -> Tensor:
        """See ``CausalNet``: each layer's last samples wait in a queue as long as its dilation (Paine et al. 2016)."""
        seen = x.new_zeros(len(x), self.start.in_channels, 1, 1)
        nothing = x.new_zeros(len(x), self.start.out_channels, 1, 1)
        queues = [deque([nothing] * layer.dilation) for layer in self._layers()]

        def earlier(h: Tensor, layer: DilatedLayer, i: int) -> Tensor:
            queues[i].append(h)
            return queues[i].popleft()

        for t in range(x.shape[-1]):
            x[..., 0, t] = choose(self._through(seen, earlier), 0, t)
            seen = _told(x[..., t : t + 1])
        return x

    def _through(self, x: Tensor, earlier: Callable[[Tensor, DilatedLayer, int], Tensor]) -> Tensor:
        """All layers, each told by ``earlier`` what its input was ``dilation`` samples ago."""
        h, skips = self.start(x), x.new_zeros(())
        for i, layer in enumerate(self._layers()):
            h, skip = layer(h, earlier(h, layer, i))
            skips = skips + skip
        return self.last(self.hidden(skips.relu()).relu())

    def _layers(self) -> list[DilatedLayer]:
        return [layer for layer in self.layers if isinstance(layer, DilatedLayer)]


def _told(x: Tensor) -> Tensor:
    """What the network is told of samples (B, C, 1, T): (B, 2 C + 1, 1, T)."""
    return torch.cat((x, expand(x), torch.ones_like(x[:, :1])), dim=1)
