"""Whether a trained flow is in order: its latents, where its bits come from, and what inverting it loses.

``diagnose`` measures; ``glow.evaluation.findings`` says in words what looks wrong, and
``glow.evaluation.diagnostics_picture`` draws.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor, nn

from glow.bijections import (
    ActNorm,
    AffineCoupling,
    Composition,
    Coupling,
    GaussianPrior,
    InvertibleConv1x1,
    MultiScale,
    Permutation,
    Squeeze,
)
from glow.bijections.base import sum_event
from glow.distributions.latent import LOG_2_PI
from glow.errors import UsageError, check_positive
from glow.flows.flow import Flow
from glow.fused import GlowLevel, GlowStep
from glow.seeds import generator

LEVELS = np.arange(1, 100) / 100
"""The levels of the quantiles in a report, 0.01 .. 0.99."""

_KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "actnorm": (ActNorm,),
    "mixing": (InvertibleConv1x1, Permutation, Squeeze),
    "coupling": (Coupling,),
    "prior": (GaussianPrior,),
}


@torch.no_grad()
@np.errstate(all="ignore")  # what is not finite is reported
def diagnose(
    flow: Flow, x: Tensor, y: Tensor | None = None, *, seed: int = 0, batch_size: int = 64
) -> dict[str, Any]:
    """Measure a flow on data that it was not trained on. The flow stays as it is, whatever happens.

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
        flow: any flow; what is neither a ``MultiScale``, a ``GlowLevel`` nor a ``Composition`` counts as one step.
        x: held-out data (N, *event_shape), a few hundred or more.
        y: labels (N,) of a class-conditional flow.
        seed: decides the dequantization noise, which does not depend on ``batch_size``.
        batch_size: examples computed at a time; the inputs of all steps are kept for that many.

    Raises:
        UsageError: there is no data, or the flow does not accept it (see ``Flow.log_prob``).
    """
    check_positive("batch_size", batch_size, integer=True)
    if not len(x):
        raise UsageError("x has no examples: a diagnosis needs some")
    # The same tensors in other modules: hooks, modes and records of the copy do not touch the flow.
    flow = copy.deepcopy(flow, {id(t): t for t in (*flow.parameters(), *flow.buffers())}).eval()
    steps, scales = list(_steps_of(flow)), len(flow.latent_shapes)
    noise = torch.rand(x.shape, generator=generator("cpu", "diagnose", seed), dtype=flow.dtype)
    traces = []
    for i in range(0, len(x), batch_size):
        batch, u = (t[i : i + batch_size].to(flow.device) for t in (x, noise))
        labels = None if y is None else y[i : i + batch_size].to(flow.device)
        traces.append(_trace(flow, steps, batch, labels, u))

    def all_of(field: str) -> np.ndarray:  # examples are in the last dimension
        return torch.cat([getattr(t, field) for t in traces], dim=-1).cpu().double().numpy()

    per_unit = -1.0 / (math.prod(flow.event_shape) * math.log(2) if flow.dequantize else 1.0)
    log_prob, log_dets = all_of("log_prob") * per_unit, all_of("log_dets").mean(1) * per_unit
    kinds = list(dict.fromkeys(("level correction", *_KINDS, *(s.kind for s in steps))))
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
        "unit": "bits/dim" if flow.dequantize else "nats",
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
            "lost": all_of("lost").mean() if flow.dequantize else None,
        },
        "scales": _scales(steps, torch.stack([t.extremes for t in traces]), scales),
        "conditions": _conditions(steps, scales),
    }
    return _jsonable(report)


class _Step:
    """An elementary step of a flow: a bijection and its place."""

    def __init__(
        self, bijection: nn.Module, scale: int, where: str, labelled: bool, splits: bool = False
    ) -> None:
        self.bijection: Any = bijection
        self.scale = scale
        named = [kind for kind, classes in _KINDS.items() if isinstance(bijection, classes)]
        self.kind = named[0] if named else f"other: {type(bijection).__name__}"
        self.name = f"{where}, {self.kind}".removeprefix(", ")
        self.labelled = labelled
        self.splits = splits
        self._heard: Tensor | None = None
        if isinstance(bijection, AffineCoupling):
            bijection.network.register_forward_hook(self._hear)

    def _hear(self, network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._heard = output

    def forward(self, x: Tensor, y: Tensor | None, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What goes on, and the log-det (B,); the half that leaves is added to ``latents``."""
        if not self.splits:
            return self.bijection(x, y if self.labelled else None)
        x, leaving = x.chunk(2, dim=1)
        latent, log_det = self.bijection(leaving, x)
        latents.append(latent)
        return x, log_det

    def inverse(self, z: Tensor, y: Tensor | None, latents: list[Tensor]) -> Tensor:
        """The input of ``forward`` again; NaN for a singular matrix."""
        if self.splits:
            return torch.cat((z, self.bijection.inverse(latents.pop(), z)[0]), dim=1)
        return self.bijection.inverse(z, y if self.labelled else None)[0]

    def extremes(self, x: Tensor) -> Tensor:
        """The smallest and the largest scale that ``forward`` just used (2,), in x's dtype; NaN without any."""
        if self._heard is None:
            return x.new_full((2,), torch.nan)
        _, log_scale = self.bijection._parameters_from(self._heard.to(x.dtype))
        return torch.stack(log_scale.aminmax()).exp()


def _steps_of(flow: Flow) -> Iterator[_Step]:
    f = flow.bijection
    if not isinstance(f, MultiScale):
        yield from _walk(f, 0, "", True)
        return
    for i, level in enumerate(f.levels):
        where = f"level {i + 1}"
        yield from _walk(level, i, where, False)
        if i < len(f.splits):
            yield _Step(f.splits[i], i, where, labelled=False, splits=True)
    yield _Step(f.top, len(f.levels) - 1, where, labelled=True)


def _walk(f: nn.Module, scale: int, where: str, labelled: bool) -> Iterator[_Step]:
    if isinstance(f, GlowLevel):
        yield _Step(f.squeeze, scale, where, labelled=False)
        for k, step in enumerate(f.unstack()):
            yield from _walk(step, scale, f"{where}, step {k + 1}".removeprefix(", "), False)
    elif isinstance(f, Composition):
        for k, part in enumerate(f.steps):
            inside = where if isinstance(f, GlowStep) else f"{where}, step {k + 1}".removeprefix(", ")
            yield from _walk(part, scale, inside, labelled)
    else:
        yield _Step(f, scale, where, labelled)


class _Trace(NamedTuple):
    """What a batch of B examples says; T steps, S scales."""

    log_prob: Tensor  # (B,)
    log_dets: Tensor  # (1 + T + S, B): level correction, steps, normal densities
    latents: list[Tensor]  # S of (B, D)
    largest: Tensor  # (T, B)
    median: Tensor  # (T, B)
    data: Tensor  # (D, B), as the flow takes it
    lost: Tensor  # (D, B)
    extremes: Tensor  # (T, 2)


def _trace(flow: Flow, steps: Sequence[_Step], x: Tensor, y: Tensor | None, noise: Tensor) -> _Trace:
    log_prob = flow.log_prob(x if flow.dequantize else x.to(flow.dtype), y, noise)  # checks x and y, too
    if flow.dequantize:
        data, correction = flow.dequantize(x, noise=noise)
    else:
        data = x.to(flow.dtype)
        correction = data.new_zeros(len(x))
    z, inputs, log_dets, extremes = data, [], [correction], []
    latents: list[Tensor] = []
    for step in steps:
        inputs.append(z)
        z, log_det = step.forward(z, y, latents)
        log_dets.append(log_det)
        extremes.append(step.extremes(z))
    latents.append(z)
    waiting, errors = latents[:-1], []
    for step, known in zip(reversed(steps), reversed(inputs), strict=True):
        try:
            z = step.inverse(z, y, waiting)
        except torch.linalg.LinAlgError:
            z = torch.full_like(known, torch.nan)
        errors.append((z - known).abs().flatten(1))
    lost = torch.zeros_like(data)
    if flow.dequantize:
        level = (z + 0.5) * flow.dequantize.levels  # NaN is no level; Dequantization.inverse would warn of it
        lost = (level.floor().clamp(0, flow.dequantize.levels - 1) != x).to(data.dtype)
    return _Trace(
        log_prob,
        torch.stack([*log_dets, *(-sum_event(0.5 * (z * z + LOG_2_PI)) for z in latents)]),
        [z.flatten(1) for z in latents],
        torch.stack([e.amax(1) for e in reversed(errors)]),
        torch.stack([e.median(1).values for e in reversed(errors)]),
        data.flatten(1).T,
        lost.flatten(1).T,
        torch.stack(extremes),
    )


def _latent_statistics(z: np.ndarray) -> dict[str, Any]:
    """Of latents (N, D) in float64."""
    n, d = z.shape
    norms = {"mean": None, "sd": None, "ks": None, "quantiles": [None] * len(LEVELS)}
    found = {
        "dimensions": d,
        "finite": (np.abs(z) < 1e100).mean(),  # larger ones have no finite squares
        "skewness": None,
        "excess_kurtosis": None,
        **norms,
    }
    if found["finite"] == 1:
        values, squared = z.ravel(), (z * z).sum(1)
        found |= _of(values, stats.norm)
        if sd := values.std():
            standard = (values - values.mean()) / sd
            found |= {"skewness": (standard**3).mean(), "excess_kurtosis": (standard**4).mean() - 3}
        norms = _of(squared, stats.chi2(d))
        norms |= {
            "mean": squared.mean() / d,
            "sd": squared.std(ddof=1) / math.sqrt(2 * d) if n > 1 else None,
        }
    return {**found, "squared_norm": {**norms, "chi_square": stats.chi2.ppf(LEVELS, d)}}


def _of(values: np.ndarray, expected: Any) -> dict[str, Any]:
    return {
        "mean": values.mean(),
        "sd": values.std(),
        "ks": stats.ks_1samp(values, expected.cdf, method="asymp").statistic,
        "quantiles": np.quantile(values, LEVELS),
    }


def _scales(steps: Sequence[_Step], extremes: Tensor, scales: int) -> dict[str, Any] | None:
    """From the extremes (batches, T, 2)."""
    low, high = extremes[..., 0].amin(0).tolist(), extremes[..., 1].amax(0).tolist()
    pairs: list[list[list[float]]] = [[] for _ in range(scales)]
    for step, pair in zip(steps, zip(low, high, strict=True), strict=True):
        if isinstance(step.bijection, AffineCoupling):
            pairs[step.scale].append(list(pair))
    every = [pair for level in pairs for pair in level]
    return (
        {**_range(every), "levels": [{**_range(level), "steps": level} for level in pairs]} if every else None
    )


def _range(pairs: Sequence[Sequence[float]]) -> dict[str, float | None]:
    if not pairs:
        return {"smallest": None, "largest": None}
    return {"smallest": float(np.min(pairs)), "largest": float(np.max(pairs))}  # NaN, if there is one


def _conditions(steps: Sequence[_Step], scales: int) -> list[list[float]] | None:
    conditions: list[list[float]] = [[] for _ in range(scales)]
    for step in steps:
        if isinstance(step.bijection, InvertibleConv1x1):
            weight = step.bijection.weight().cpu().double()
            conditions[step.scale].append(
                float(torch.linalg.cond(weight)) if weight.isfinite().all() else math.inf
            )
    return conditions if any(conditions) else None


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_jsonable(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
