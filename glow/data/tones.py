"""Tones in noise, drawn on the spot: signals whose entropy is known."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glow.data.base import ArrayData, Examples, Split, split_sizes
from glow.errors import check_positive
from glow.mu_law import LEVELS, compand, expand


class Tones(ArrayData):
    r"""A sine of random pitch and phase in Gaussian noise, companded, uint8 (N, 1, T); splits are drawn independently.

    .. math:: x_t = \tfrac12 \sin(2 \pi (k t + j) / P) + noise \cdot \epsilon_t

    The pitch k and the phase j are from finite sets, so that the probability of a signal is a finite mixture: the mean over both of
    :math:`\prod_t P(v_t | k, j)`.

    Args:
        sample_rate: samples a second, which says how the samples sound and nothing else.
        noise: its standard deviation; the loudest sound is 1.
        train_size: signals to train on.
        test_size: signals to test on.
        common: see ``ArrayData``; ``val_size`` is a count or a fraction of ``train_size``.
    """

    PERIOD = 64
    """P: so many phases, and samples after which every tone repeats."""
    PITCHES = range(2, 18)
    """k: at 8,000 samples a second from 250 to 2,125 Hz."""

    def __init__(
        self, *, sample_rate: int, noise: float, train_size: int, test_size: int, **common: Any
    ) -> None:
        super().__init__(**common)
        check_positive("dataset.sample_rate", sample_rate, integer=True)
        check_positive("dataset.noise", noise)
        self.sample_rate, self.noise = sample_rate, noise
        self.sizes = split_sizes(train_size, self.val_size, test_size)

    def load(self, split: Split) -> Examples:
        """uint8 (N, 1, T), 256 levels, no labels."""
        rng = np.random.default_rng([self.seed, list(self.sizes).index(split)])
        n, t = self.sizes[split], np.arange(self.shape[-1])
        k, j = rng.choice(self.PITCHES, (n, 1)), rng.integers(self.PERIOD, size=(n, 1))
        x = np.sin(2 * np.pi * (k * t + j) / self.PERIOD) / 2 + self.noise * rng.standard_normal((n, len(t)))
        return Examples(compand(torch.from_numpy(x))[:, None])

    def log_prob(self, x: Tensor) -> Tensor:
        """The log-probability of integers (N, 1, T): (N,), nats, float64."""
        p, t, levels = self.PERIOD, torch.arange(x.shape[-1]), self.grey_levels or LEVELS
        edges = expand(torch.linspace(-1, 1, LEVELS + 1, dtype=torch.float64))
        edges[0], edges[-1] = -math.inf, math.inf
        phase = torch.arange(p, dtype=torch.float64)
        below = torch.special.ndtr((edges[:, None] - (2 * math.pi * phase / p).sin() / 2) / self.noise)
        fine = below.diff(dim=0)  # (256, P), P(v | phase)
        coarse = torch.zeros(levels, p, dtype=torch.float64)
        coarse.index_add_(0, torch.arange(LEVELS) * levels // LEVELS, fine)
        # Row v P + s is log P(v | phase) of all phases, advanced by s.
        advanced = torch.stack([coarse.log().roll(-s, dims=1) for s in range(p)], dim=1).flatten(0, 1)
        rows = x[:, 0].long() * p
        of_pitch = [F.embedding_bag(rows + k * t % p, advanced, mode="sum") for k in self.PITCHES]  # (N, P)
        return torch.cat(of_pitch, dim=1).logsumexp(1) - math.log(len(self.PITCHES) * p)

    def true_nll(self, x: Tensor, y: Tensor | None = None) -> float:
        """The mean negative log-probability of signals x (N, 1, T), nats: their entropy, but for their number."""
        return -self.log_prob(x).mean().item()
