"""Learned Gaussian priors, as affine maps onto a standard normal."""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.base import Bijection, ieee_precision, sum_event


class GaussianPrior(Bijection):
    r"""A Gaussian with learned mean and log standard deviation, written as its standardization.

    .. math:: \epsilon = (z - \mu) \, e^{-\log\sigma}, \qquad \log N(z; \mu, \sigma) =
        \log N(\epsilon; 0, 1) - \sum \log\sigma

    This makes every latent of a flow standard normal, and temperature one factor on all of them.
    """

    kind = "prior"

    @abstractmethod
    def mean_and_log_sd(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Both broadcast to the shape of z. ``z`` tells shape and dtype only."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> standardized (B, C, H, W), log-det (B,)."""
        with ieee_precision(x.device):
            mean, log_sd = self.mean_and_log_sd(x, context)
        return (x - mean) * (-log_sd).exp(), sum_event(-log_sd.expand_as(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standard normal (B, C, H, W) -> (B, C, H, W), log-det (B,)."""
        with ieee_precision(z.device):
            mean, log_sd = self.mean_and_log_sd(z, context)
        return z * log_sd.exp() + mean, sum_event(log_sd.expand_as(z))


class SplitPrior(GaussianPrior):
    """The prior of the channels that a split factors out, given those that go on.

    A network gives mean and log standard deviation, interleaved (Kingma & Dhariwal 2018, figure 2b and
    section 3; ``split2d_prior`` of the release). The ``context`` of both directions is the half that
    goes on (B, C, H, W).

    Args:
        network: (B, C, H, W) -> (B, 2C, H, W); Glow's is one 3x3 convolution that starts at zero.

    >>> prior = SplitPrior(nn.Conv2d(2, 4, 3, padding=1))
    >>> leaving, going_on = torch.ones(5, 4, 8, 8).chunk(2, dim=1)
    >>> z, log_det = prior(leaving, going_on)
    >>> torch.allclose(prior.inverse(z, going_on)[0], leaving, atol=1e-6)
    True
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def mean_and_log_sd(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Two tensors (B, C, H, W)."""
        assert context is not None, "the split prior is conditioned on the half that goes on"
        h = self.network(context)
        return h[:, 0::2], h[:, 1::2]


class TopPrior(GaussianPrior):
    """The prior of the last scale: one mean and log standard deviation per channel, or per channel and pixel.

    It starts as the standard normal. A linear function of the ``context`` (B, context_channels), if there is one, is
    added: with labels as one-hot vectors, every class has a prior of its own.

    Args:
        channels: C.
        learned: if not, it stays the standard normal (``learntop`` of the release).
        context_channels: numbers in the context; 0 for none.
        size: (H, W) of the images, which gives every pixel a prior of its own; None for one for all.

    >>> z, log_det = TopPrior(4, context_channels=3)(torch.ones(2, 4, 1, 1), torch.eye(3)[:2])
    >>> bool((log_det == 0).all())  # it starts as the standard normal
    True
    """

    guidance = 0.0
    """See ``glow.bijections.guidance``."""

    def __init__(
        self,
        channels: int,
        learned: bool = True,
        context_channels: int = 0,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.size = tuple(size or (1, 1))
        numbers = 2 * channels * math.prod(self.size)
        self.bias = nn.Parameter(torch.zeros(numbers)) if learned else None
        self.given = nn.Parameter(torch.zeros(numbers, context_channels)) if context_channels else None

    def mean_and_log_sd(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Two tensors that broadcast to (B, C, H, W)."""
        h = z.new_zeros(1, 2 * z.shape[1] * math.prod(self.size)) if self.bias is None else self.bias[None]
        if self.given is not None and context is not None:  # linear: guidance is a factor
            h = h + (1 + self.guidance) * F.linear(context, self.given)
        mean, log_sd = h.unflatten(1, (-1, *self.size)).chunk(2, dim=1)
        return mean, log_sd
