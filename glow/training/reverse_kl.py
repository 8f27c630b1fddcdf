"""Reverse KL: a flow learns a density from its formula, without data or beside it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from glow.distributions.base import Distribution
from glow.distributions.known import KnownDensity
from glow.distributions.plane import density
from glow.errors import UsageError, check_positive
from glow.evaluation.reverse_kl import reverse_kl_report
from glow.flows.flow import Flow
from glow.seeds import generator
from glow.training.module import Batch, DensityModule


class ReverseKL(DensityModule):
    r"""Reverse KL: the flow's own samples x are to follow a density :math:`\tilde p(x)` known up to a factor.

    The loss is the mean of :math:`\log q(x) - \log \tilde p(x)`, the negative ELBO in nats (``nelbo``; Rezende & Mohamed
    2015, section 4). Of the data only the number of examples in a batch counts. The flow starts as it was built: nobody has
    samples from which data-dependent layers could be initialized.

    Args:
        flow: a ``Flow`` whose samples are differentiable; otherwise as in ``DensityModule``.
        optimizer: see there.
        schedule: see there.
        model: see there.
        dataset: the configuration of a ``glow.data.Toy``, whose ``kind`` and ``noise`` name the density.
        seed: see there.

    Raises:
        UsageError: the flow's samples are not differentiable, or the density is zero somewhere.
    """

    unit = "nelbo"
    option = "reverse_kl"
    """Its name on the command line."""
    WEIGHTED = 2_000
    """Samples of the flow that every validation weights."""

    def __init__(
        self,
        flow: Distribution | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., Any] | None = None,
        *,
        model: dict[str, Any] | None = None,
        dataset: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(flow, optimizer, schedule, model=model, dataset=dataset, seed=seed)
        if not isinstance(self.flow, Flow) or not self.flow.base.reparametrized:
            raise UsageError(
                f"objective={self.option} needs a flow whose samples are differentiable: neither model=made nor "
                f"model.base=mixture; this is {type(self.flow).__name__}"
            )
        self.flow.initialized = True
        self.density = _density_of(dataset, self.option)

    def noise(self, n: int, source: torch.Generator) -> Tensor | None:
        """The latents (n, D) of ``n`` samples."""
        return self._flow.sample_latents(n, generator=source)[0]

    def loss(self, batch: Batch, noise: Tensor | None) -> Tensor:
        assert noise is not None
        x, log_q = self._flow.generate_with_log_prob([noise])
        return log_q - self.density.log_prob(x)

    def on_validation_epoch_end(self) -> None:
        source = generator("cpu", "weights", self.seed)
        report = reverse_kl_report(self._flow, self.density, self.WEIGHTED, source)
        for name in ("elbo", "elbo_gap", "ess", "free_energy_estimate"):
            if report.get(name) is not None:
                self.log(f"val/{name}", report[name], rank_zero_only=True)

    @property
    def _flow(self) -> Flow:
        assert isinstance(self.flow, Flow)
        return self.flow


class BothKL(ReverseKL):
    r"""Forward and reverse KL together: data *and* their energy, as Boltzmann generators are trained (Noé et al. 2019).

    The data show where the modes are, which reverse KL may miss; the formula says what lies between. The gradient is that of
    :math:`(1 - w) E_{data}[-\log q] + w E_q[\log q - \log \tilde p]`. The figure, in training and test, is the first
    expectation alone (``nll``), which compares with the entropy.

    Args:
        flow: see ``ReverseKL``.
        optimizer: see there.
        schedule: see there.
        share: w, in [0, 1].
        model: see there.
        dataset: see there.
        seed: see there.

    Raises:
        UsageError: as there, or w is out of range.
    """

    unit = "nll"
    option = "both_kl"

    def __init__(
        self,
        flow: Distribution | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., Any] | None = None,
        *,
        share: float = 0.5,
        model: dict[str, Any] | None = None,
        dataset: dict[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(flow, optimizer, schedule, model=model, dataset=dataset, seed=seed)
        check_positive("objective.share", share, zero=True)
        if share > 1:
            raise UsageError(f"objective.share must be in [0, 1], got {share}")
        self.save_hyperparameters("share")
        self.share = share

    def noise(self, n: int, source: torch.Generator) -> Tensor | None:
        """The same in training, where they are the noise of the data's densities, too; else the flow's noise."""
        return super().noise(n, source) if self.training else self.flow.noise(n, source)

    def loss(self, batch: Batch, noise: Tensor | None) -> Tensor:
        nll = -self.flow(batch[0], None, noise)
        if not self.training:
            return nll
        added = self.share * (super().loss(batch, noise) - nll)
        return nll + added - added.detach()


def _density_of(dataset: dict[str, Any] | None, option: str) -> KnownDensity:
    if dataset is None or dataset.get("_target_") != "glow.data.Toy":
        raise UsageError(
            f"objective={option} needs a density: choose one of the datasets in the plane, or dimer"
        )
    found = density(dataset["kind"], dataset["noise"])
    if not (found.is_density and found.nowhere_zero):
        raise UsageError(
            f"objective={option} needs a density that is nowhere zero: a noise, and no checkerboard"
        )
    return found
