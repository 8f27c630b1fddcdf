"""Pairs of parameters and observations, which a simulator gives on the spot."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from glow.data.base import ArrayData, Examples, Split, split_sizes
from glow.distributions.simulators import SIMULATORS
from glow.errors import UsageError, check_choice


class Simulated(ArrayData):
    """Parameters from the prior of a simulator, float32 (N, D), and in place of labels the observations, float32 (N, K).

    Args:
        kind: a key of ``glow.distributions.simulators.SIMULATORS``.
        context: K.
        train_size: pairs to train on.
        test_size: pairs to test on.
        common: see ``ArrayData``; ``val_size`` is a count or a fraction of ``train_size``.

    >>> data = Simulated(kind="two_moons", name="moons", shape=[2], context=2, train_size=90, test_size=9, batch_size=9)
    >>> data.setup("fit")
    >>> theta, x = data.arrays("train")
    >>> theta.shape, x.shape, data.posterior(x[0], 5).shape
    (torch.Size([90, 2]), torch.Size([90, 2]), torch.Size([5, 2]))
    """

    def __init__(self, *, kind: str, context: int, train_size: int, test_size: int, **common: Any) -> None:
        super().__init__(**common)
        check_choice("dataset.kind", kind, SIMULATORS)
        self.simulator = SIMULATORS[kind]()
        if context != self.simulator.observed:
            raise UsageError(
                f"dataset.context must be {self.simulator.observed}, the length of an observation of {kind}, got {context}"
            )
        self.context = context
        self.sizes = split_sizes(train_size, self.val_size, test_size)

    def true_nll(self, theta: Tensor, x: Tensor | None) -> float:
        """The mean negative log-density of the known posterior at pairs (N, D) and (N, K), nats."""
        assert x is not None
        return -self.simulator.log_posterior(theta.double(), x.double()).mean().item()

    def posterior(self, x: Tensor, n: int, seed: int = 0) -> Tensor:
        """Draw parameters, float32 (n, D), from the known posterior given one observation (K,).

        Raises:
            UsageError: no parameters of the prior give this observation.
        """
        drawn = self.simulator.sample_posterior(x.double().cpu().numpy(), n, np.random.default_rng(seed))
        return torch.from_numpy(drawn).float()

    def load(self, split: Split) -> Examples:
        """float32 (N, D) and float32 (N, K)."""
        rng = np.random.default_rng([self.seed, list(self.sizes).index(split)])
        theta = self.simulator.sample_prior(self.sizes[split], rng)
        x = self.simulator.simulate(theta, rng)
        return Examples(torch.from_numpy(theta).float(), torch.from_numpy(x).float())
