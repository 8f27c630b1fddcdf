"""How well a flow has learned a density that is known up to a factor, by its own samples."""

import math
from typing import Any

import torch

from glow.distributions.known import KnownDensity
from glow.flows.flow import Flow


@torch.no_grad()
def reverse_kl_report(flow: Flow, target: KnownDensity, n: int, generator: torch.Generator) -> dict[str, Any]:
    r"""Samples of the flow q weighted by :math:`w = \tilde p(x) / q(x)`, set beside integrals.

    Args:
        flow: of vectors.
        target: the unnormalized density.
        n: number of samples.
        generator: their source.

    Returns:
        ``samples``, n; ``elbo``, the mean of log w, nats; ``log_normalizer`` of the target, by integration, and
        ``elbo_gap``, what the ELBO lacks of it, which is KL(q, p); ``log_normalizer_estimate`` from the weights; ``ess``,
        the effective sample size :math:`(\sum w)^2 / \sum w^2` as a fraction of n; and the target's ``observables``.
        None for what is not finite.
    """
    x, log_q = flow.generate_with_log_prob(flow.sample_latents(n, generator=generator))
    x, log_w = x.double(), target.log_prob(x.double()) - log_q.double()
    log_sum = log_w.logsumexp(0)
    elbo = log_w.mean().item()
    report = {
        "samples": n,
        "elbo": elbo,
        "log_normalizer": target.log_normalizer,
        "elbo_gap": target.log_normalizer - elbo,
        "log_normalizer_estimate": log_sum.item() - math.log(n),
        "ess": (2 * log_sum - (2 * log_w).logsumexp(0)).exp().item() / n,
        **target.observables(x, log_w),
    }
    return {name: value if math.isfinite(value) else None for name, value in report.items()}
