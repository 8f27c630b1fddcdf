"""Diagnosis of a trained flow: its latents, where its bits come from, and what inverting it loses.

``diagnose`` measures, ``glow.evaluation.findings`` says in words what looks wrong, and
``glow.evaluation.diagnostics_picture`` draws.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from glow.bijections import Part, record_scales
from glow.bijections.base import sum_event
from glow.distributions.latent import LOG_2_PI
from glow.errors import UsageError, check_positive
from glow.flows.flow import Flow
from glow.seeds import generator

QUANTILES = np.arange(1, 100) / 100
"""The quantiles in a report, 0.01 .. 0.99."""

KINDS = ("actnorm", "mixing", "coupling", "prior")
"""The kinds of steps that have a column in every table."""


@torch.no_grad()
@np.errstate(all="ignore")  # the report says what is not finite
def diagnose(
    flow: Flow, x: Tensor, y: Tensor | None = None, *, seed: int = 0, batch_size: int = 64
) -> dict[str, Any]:
    """Measure a flow on data that it was not trained on. The flow is not changed, also where this fails.

    The flow is taken apart into its elementary steps, in evaluation mode and the precision of its
    parameters. The report holds numbers, strings and lists only, None for what is not finite:

    - ``examples``, ``dimensions`` (of one example), ``dtype``, ``unit`` (``bits/dim`` of integers, else ``nats``);
    - ``latents``, per scale, finest first: ``shape``, ``dimensions`` D, the share of ``finite`` ones; of all
      coordinates ``mean``, ``sd``, ``skewness``, ``excess_kurtosis``, the Kolmogorov-Smirnov distance ``ks`` to N(0, 1)
      and 99 ``quantiles``; of the examples' ``squared_norm`` the ``mean`` / D, the ``sd`` / sqrt(2 D), ``ks``,
      ``quantiles`` and those of ``chi_square`` with D degrees of freedom. Integers are dequantized with uniform noise,
      for which the density was trained;
    - ``bits``: ``total``, its ``standard_error`` over examples, what ``log_prob`` of the whole flow says, and ``table``,
      per scale the share of each kind of step: ``level correction`` (on the finest scale), ``actnorm``, ``mixing`` (1x1
      convolutions, permutations, squeezes), ``coupling``, ``prior`` (normal density of the latents and
      log-determinants of learned priors), and ``other: CLASS``. All in ``unit``, negative where a step lowers it;
    - ``round_trip``: the ``steps`` by name, the ``scale`` of each, and the ``largest`` and ``median`` |difference| between a
      step's input and what inverting from the latents finds there, the data's first (the median over examples of each
      one's median); ``data_sd``; ``lost``, the share of grey levels that do not come back, None for vectors;
    - ``scales``: the ``smallest`` and ``largest`` scale of affine couplings, and both per level as ``levels`` with
      [smallest, largest] of every ``steps``; None without such couplings;
    - ``conditions``: per level the condition numbers of its 1x1 convolutions (2-norm); None without any.

    Args:
        flow: any flow; its steps are ``flow.bijection.parts()``.
        x: held-out data (N, *event_shape), a few hundred or more.
        y: labels (N,) of a class-conditional flow.
        seed: decides the dequantization noise, whatever the ``batch_size``.
        batch_size: examples computed at a time; it bounds the memory, which holds the inputs of all their steps.

    Raises:
        UsageError: there is no data, or the flow does not accept it (see ``Flow.log_prob``).
    """
    check_positive("batch_size", batch_size, integer=True)
    if not len(x):
        raise UsageError("x has no examples: a diagnosis needs some")
    # The same tensors in other modules: hooks, modes and records of the copy do not touch the flow.
    flow = copy.deepcopy(flow, {id(t): t for t in (*flow.parameters(), *flow.buffers())}).eval()
    steps, scales = list(flow.bijection.parts()), len(flow.latent_shapes)
    noise = flow.noise(len(x), generator("cpu", "diagnose", seed))
    traces = []
    for i in range(0, len(x), batch_size):
        batch, labels, u = (
            None if t is None else t[i : i + batch_size].to(flow.device) for t in (x, y, noise)
        )
        assert batch is not None
        traces.append(_trace(flow, steps, batch, labels, u))

    def all_of(field: str) -> np.ndarray:  # examples are in the last dimension
        return torch.cat([getattr(t, field) for t in traces], dim=-1).cpu().double().numpy()

    per_unit = -1.0 / (math.prod(flow.event_shape) * math.log(2) if flow.dequantization else 1.0)
    log_prob, log_dets = all_of("log_prob") * per_unit, all_of("log_dets").mean(1) * per_unit
    kinds = list(dict.fromkeys(("level correction", *KINDS, *(s.kind for s in steps))))
    table: list[dict[str, float]] = [dict.fromkeys(kinds, 0.0) for _ in range(scales)]
    table[0]["level correction"] += log_dets[0]
    for step, value in zip(steps, log_dets[1:], strict=False):
        table[step.scale][step.kind] += value
    for row, value in zip(table, log_dets[1 + len(steps) :], strict=True):
        row["prior"] += value
    latents = [
        torch.cat(parts).cpu().double().numpy() for parts in zip(*(t.latents for t in traces), strict=True)
    ]
    report = {
        "examples": len(x),
        "dimensions": math.prod(flow.event_shape),
        "dtype": str(flow.dtype).removeprefix("torch."),
        "unit": "bits/dim" if flow.dequantization else "nats",
        "latents": [
            {"shape": shape, **_latent_statistics(z)}
            for shape, z in zip(flow.latent_shapes, latents, strict=True)
        ],
        "bits": {
            "total": log_dets.sum(),
            "standard_error": log_prob.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else None,
            "log_prob": log_prob.mean(),
            "table": table,
        },
        "round_trip": {
            "steps": [s.name for s in steps],
            "scale": [s.scale for s in steps],
            "largest": all_of("largest").max(1),
            "median": np.median(all_of("median"), axis=1),
            "data_sd": all_of("data").std(),
            "lost": all_of("lost").mean() if flow.dequantization else None,
        },
        "scales": _scales(steps, [t.extremes for t in traces], scales),
        "conditions": _conditions(steps, scales),
    }
    return _jsonable(report)


class _Trace(NamedTuple):
    """The measurements of a batch of B examples; T steps, S scales."""

    log_prob: Tensor  # (B,)
    log_dets: Tensor  # (1 + T + S, B): level correction, steps, normal densities
    latents: list[Tensor]  # S of (B, D)
    largest: Tensor  # (T, B)
    median: Tensor  # (T, B)
    data: Tensor  # (D, B), dequantized
    lost: Tensor  # (D, B), 1 where a grey level does not come back
    extremes: dict[int, tuple[float, float]]  # the smallest and largest scale of affine couplings, by step


def _trace(flow: Flow, steps: Sequence[Part], x: Tensor, y: Tensor | None, noise: Tensor | None) -> _Trace:
    log_prob = flow.log_prob(x if flow.dequantization else x.to(flow.dtype), y, noise)  # checks x and y, too
    if flow.dequantization:
        data, correction = flow.dequantization(x, noise)
    else:
        data = x.to(flow.dtype)
        correction = data.new_zeros(len(x))
    context = flow.context(y, len(x), noise)
    z, inputs, log_dets, latents = data, [], [correction], list[Tensor]()
    extremes = {}
    for i, step in enumerate(steps):
        inputs.append(z)
        with record_scales(step.bijection) as recorded:
            z, log_det = step.forward(z, context, latents)
        log_dets.append(log_det)
        if recorded.smallest is not None and recorded.largest is not None:
            extremes[i] = recorded.smallest.item(), recorded.largest.item()
    latents.append(z)
    waiting, errors = latents[:-1], []
    for step, known in zip(reversed(steps), reversed(inputs), strict=True):
        try:
            z, _ = step.inverse(z, context, waiting)
        except torch.linalg.LinAlgError:  # of a singular matrix
            z = torch.full_like(known, torch.nan)
        errors.append((z - known).abs().flatten(1))
    lost = torch.zeros_like(data)
    if flow.dequantization:
        finite = torch.nan_to_num(z, nan=-1.0, posinf=1.0, neginf=-1.0)  # quantize would warn of what is not
        lost = ((flow.dequantization.quantize(finite) != x) | z.isnan()).to(data.dtype)
    return _Trace(
        log_prob,
        torch.stack([*log_dets, *(-sum_event(0.5 * (z * z + LOG_2_PI)) for z in latents)]),
        [z.flatten(1) for z in latents],
        torch.stack([e.amax(1) for e in reversed(errors)]),
        torch.stack([e.median(1).values for e in reversed(errors)]),
        data.flatten(1).T,
        lost.flatten(1).T,
        extremes,
    )


def _latent_statistics(z: np.ndarray) -> dict[str, Any]:
    """The statistics of latents (N, D) in a report."""
    n, d = z.shape
    norms = {"mean": None, "sd": None, "ks": None, "quantiles": [None] * len(QUANTILES)}
    found = {
        "dimensions": d,
        "finite": (np.abs(z) < 1e100).mean(),  # larger ones have no finite squares
        "skewness": None,
        "excess_kurtosis": None,
        **norms,
    }
    if found["finite"] == 1:
        values, squared = z.ravel(), (z * z).sum(1)
        found |= _compared(values, stats.norm)
        if sd := values.std():
            standard = (values - values.mean()) / sd
            found |= {"skewness": (standard**3).mean(), "excess_kurtosis": (standard**4).mean() - 3}
        norms = _compared(squared, stats.chi2(d))
        norms |= {
            "mean": squared.mean() / d,
            "sd": squared.std(ddof=1) / math.sqrt(2 * d) if n > 1 else None,
        }
    return {**found, "squared_norm": {**norms, "chi_square": stats.chi2.ppf(QUANTILES, d)}}


def _compared(values: np.ndarray, expected: Any) -> dict[str, Any]:
    """Statistics of values, the distance to an expected distribution among them."""
    return {
        "mean": values.mean(),
        "sd": values.std(),
        "ks": stats.ks_1samp(values, expected.cdf, method="asymp").statistic,
        "quantiles": np.quantile(values, QUANTILES),
    }


def _scales(
    steps: Sequence[Part], extremes: Sequence[dict[int, tuple[float, float]]], scales: int
) -> dict[str, Any] | None:
    """The scales in a report, from the extremes of every batch."""
    levels: list[list[list[float]]] = [[] for _ in range(scales)]
    for i, step in enumerate(steps):
        if i in extremes[0]:
            low, high = np.array([batch[i] for batch in extremes]).T
            levels[step.scale].append([float(low.min()), float(high.max())])
    every = [pair for level in levels for pair in level]
    return (
        {**_range(every), "levels": [{**_range(level), "steps": level} for level in levels]}
        if every
        else None
    )


def _range(pairs: Sequence[Sequence[float]]) -> dict[str, float | None]:
    if not pairs:
        return {"smallest": None, "largest": None}
    return {"smallest": float(np.min(pairs)), "largest": float(np.max(pairs))}  # NaN, if there is one


def _conditions(steps: Sequence[Part], scales: int) -> list[list[float]] | None:
    conditions: list[list[float]] = [[] for _ in range(scales)]
    for step in steps:
        if (number := step.bijection.condition_number()) is not None:
            conditions[step.scale].append(number)
    return conditions if any(conditions) else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_jsonable(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
