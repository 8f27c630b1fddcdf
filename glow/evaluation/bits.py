"""Bits per dimension: of a batch, of every image of a dataset, and their mean with its error."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import UsageError, check_choice, check_positive
from glow.seeds import generator

UNITS = {"bpd": "bits/dim", "nll": "nats", "nelbo": "nats of negative ELBO"}
"""The units by their keys in logs: bits/dim of grey images and signals; the negative log-likelihood, or a bound on it, of vectors and
binary images; the loss of reverse-KL training."""

Nats = TypeVar("Nats", float, Tensor)

BOUNDS = ("mean", "iw")
"""How several draws of the dequantization noise are combined; see ``evaluate_log_probs``."""


def bits_per_dim(log_prob: Nats, event_shape: Sequence[int]) -> Nats:
    r"""Bits per dimension, :math:`-\log_2 P(x) / D`, of integer data (Theis et al. 2016, section 3.1).

    Args:
        log_prob: ``Flow.log_prob`` of integer data (B,), nats; it holds the level correction.
        event_shape: the shape of one element; D is the product of its sizes.

    Returns:
        (B,), bits per dimension.

    >>> bits_per_dim(torch.tensor([-8 * math.log(2)]), (1, 2, 2))  # the probability 2^-8 of four pixels
    tensor([2.])
    """
    return -log_prob / (math.prod(event_shape) * math.log(2))


def in_unit(nats: Nats, flow: Distribution) -> Nats:
    """Negative log-probabilities, nats, in the unit of the flow's figures: bits/dim, or nats of vectors and binary images."""
    return bits_per_dim(-nats, flow.event_shape) if flow.in_bits else nats


def evaluation_generator(
    flow: Distribution, split: str, seed: int, batch: int, *, device_index: int = 0, draw: int = 0
) -> torch.Generator:
    """The source of a batch's noise, on the flow's device, the same in every evaluation.

    Args:
        flow: what is evaluated, on any device.
        split: ``val`` or ``test``.
        seed: of the run.
        batch: which batch of the split it is for.
        device_index: which of the devices that share the split.
        draw: 0 is what validation and test during training use.
    """
    key = (seed, batch, device_index, draw) if draw else (seed, batch, device_index)
    return generator(flow.device, split, *key)


def evaluation_noise(
    flow: Distribution, n: int, split: str, seed: int, batch: int, **options: int
) -> Tensor | None:
    """The noise of ``flow.log_prob`` of ``n`` elements; None for a density without.

    For the other arguments see ``evaluation_generator``.
    """
    return flow.noise(n, evaluation_generator(flow, split, seed, batch, **options))


@torch.no_grad()
def evaluate_log_probs(
    flow: Distribution,
    batches: Iterable[Sequence[Tensor]],
    *,
    split: str = "test",
    seed: int = 0,
    draws: int = 1,
    bound: str = "mean",
    progress: Callable[[int], None] | None = None,
    log_prob: Callable[..., Tensor] | None = None,
) -> Tensor:
    r"""The log-probability of every example, in evaluation mode; the flow's modes are then as before.

    For images each :math:`\log p(x + u)` is a lower bound on :math:`\log P(x)`. Of k draws of the noise u,
    ``mean`` averages the k bounds, which makes the result steadier but not tighter; ``iw`` is
    :math:`\log \frac1k \sum_i p(x + u_i)`, the importance-weighted bound (Burda et al. 2016, equation 8, with
    u for h and the uniform q(u|x) = 1), which is at least as high and rises to :math:`\log P(x)` with k.

    Args:
        flow: on any device; the batches are moved to it.
        batches: tuples ``(x,)`` or ``(x, y)``; labels or observations are used by flows that are conditioned on them.
        split: which noise, see ``evaluation_noise``: with the run's seed, batch size and precision, one draw
            gives what the run's own test computed on one device.
        seed: of the noise.
        draws: k; must be 1 where the log-density is exact, as for vectors. The noise of a VAE is that of its latents.
        bound: ``mean`` or ``iw``.
        progress: called after each batch with the number of examples done so far.
        log_prob: what is called in the place of ``flow.log_prob``.

    Returns:
        (N,), nats, float64 on the CPU, in the order of the batches.

    Raises:
        UsageError: draws or bound is out of range, the data does not suit the flow, or there is no data.
    """
    check_positive("draws", draws, integer=True)
    check_choice("bound", bound, BOUNDS)
    if draws > 1 and flow.noise(1) is None:
        raise UsageError(f"draws must be 1 for this model, whose log-density has no noise, got {draws}")
    if bound == "iw" and flow.estimated:
        raise UsageError(
            "bound must be mean for this model, whose log-density is an estimate: the logarithm of a mean would flatter it"
        )
    modes = [(module, module.training) for module in flow.modules()]
    flow.eval()
    values: list[Tensor] = []
    done = 0
    try:
        for i, (x, *labels) in enumerate(batches):
            x = x.to(flow.device, flow.dtype if flow.grey_levels is None else None)
            y = labels[0].to(flow.device) if flow.conditional and labels else None
            each = []
            for draw in range(draws):
                noise = evaluation_noise(flow, len(x), split, seed, i, draw=draw)
                each.append((log_prob or flow.log_prob)(x, y, noise).cpu().double())
            bounds = torch.stack(each)
            values.append(bounds.logsumexp(0) - math.log(draws) if bound == "iw" else bounds.mean(0))
            done += len(x)
            if progress is not None:
                progress(done)
    finally:
        for module, training in modes:
            module.training = training
    if not values:
        raise UsageError("there are no batches to evaluate")
    return torch.cat(values)


def mean_and_error(values: Tensor) -> dict[str, Any]:
    """Mean and standard error of one value per example, as plain numbers for JSON.

    Args:
        values: (N,), bits/dim or nats.

    Returns:
        ``n``; ``mean`` and ``standard_error``, which is sd / sqrt(n) with n - 1 in the sd and None for n = 1, both
        None if any value is not finite; ``non_finite``, the number of those that are not, and ``non_finite_at``, the
        indices of the first 20 of them; ``finite_mean``, the mean of the others, None if there are none.

    Raises:
        UsageError: values is empty or has more than one dimension.

    >>> found = mean_and_error(torch.tensor([1.0, 3.0]))
    >>> found["mean"], found["standard_error"]
    (2.0, 1.0)
    """
    if values.ndim != 1 or not len(values):
        raise UsageError(f"values must have shape (N,) with N above zero, got {tuple(values.shape)}")
    values = values.detach().cpu().double()
    finite = values.isfinite()
    kept, all_finite = values[finite], bool(finite.all())
    finite_mean = float(kept.mean()) if len(kept) else None
    has_error = all_finite and len(values) > 1
    return {
        "n": len(values),
        "mean": finite_mean if all_finite else None,
        "standard_error": float(values.std(correction=1)) / math.sqrt(len(values)) if has_error else None,
        "finite_mean": finite_mean,
        "non_finite": int((~finite).sum()),
        "non_finite_at": (~finite).nonzero().flatten()[:20].tolist(),
    }
