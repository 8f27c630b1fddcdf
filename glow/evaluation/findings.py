"""What looks wrong in a report of ``diagnose``, in words, and which setting to turn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple


class Threshold(NamedTuple):
    """From where on a figure is worth a line."""

    value: float
    meaning: str


THRESHOLDS: dict[str, Threshold] = {
    "mean": Threshold(0.15, "Mean of a scale's latents; their standard deviation should be one."),
    "width": Threshold(0.15, "Standard deviation of a scale's latents, less one."),
    "skewness": Threshold(0.5, "Skewness of a scale's latents; an exponential's is 2."),
    "excess_kurtosis": Threshold(
        1.0, "Excess kurtosis of a scale's latents; a Laplace's is 3, a uniform's -1.2."
    ),
    "ks": Threshold(0.05, "Kolmogorov-Smirnov distance of a scale's latents, a difference of probabilities."),
    "norm_spread": Threshold(
        1.5, "sd of squared norms over chi-square's and over the latents' variance, less one."
    ),
    "norm_ks": Threshold(0.25, "Kolmogorov-Smirnov distance of squared norms; coordinates may be dependent."),
    "agreement": Threshold(
        1e-3, "Steps one by one against the whole flow, relative to bits/dim or nats above one."
    ),
    "round_trip": Threshold(
        0.01, "Largest error of inverting, at the data, in standard deviations of the data."
    ),
    "lost": Threshold(0.01, "Share of grey levels that do not come back, from anywhere in their bins."),
    "smallest_scale": Threshold(
        1e-3, "Smallest coupling scale; inverting multiplies errors by its reciprocal."
    ),
    "largest_scale": Threshold(1e3, "Largest coupling scale; evaluating multiplies errors by it."),
    "condition": Threshold(
        1e3, "Condition number of a 1x1 convolution; float32 has seven digits, this takes three."
    ),
}
"""What ``findings`` takes for wrong: sizes of effects. Few examples must miss by more (see ``findings``)."""

_SIGMAS = 4.0
"""Standard errors that a figure may be off by chance."""


def findings(report: dict[str, Any]) -> list[str]:
    """What looks wrong in a report of ``diagnose``, one line each with the figure and the settings to turn.

    A figure is named when it misses what it should be by more than its threshold, and by more than four
    standard errors of what an exact flow would give on as many examples. An empty list: nothing is.
    """
    images = report["unit"] == "bits/dim"
    larger = f"raise trainer.max_epochs or {'model.depth or model.width' if images else 'model.layers or model.hidden'}"
    calmer = "lower optimizer.lr, lengthen optimizer.warmup_epochs or set trainer.gradient_clip_val"
    bounded = f"raise model.min_scale, {calmer}" if images else calmer
    lines = []
    for k, latents in enumerate(report["latents"]):
        where = f"the latents of scale {k + 1} of {len(report['latents'])}"
        if latents["finite"] < 1:
            lines.append(f"{1 - latents['finite']:.2%} of {where} are not finite: {calmer}")
        else:
            lines += [f"{where} {what}" for what in _about_latents(latents, report["examples"], larger)]
    lines += _about_bits(report["bits"], report["unit"], calmer)
    lines += _about_round_trip(report["round_trip"], bounded)
    if scales := report["scales"]:
        low, high = scales["smallest"], scales["largest"]
        if low is None or low < THRESHOLDS["smallest_scale"].value:
            at = next(k for k, v in enumerate(scales["levels"]) if v["steps"] and v["smallest"] == low)
            lines.append(f"couplings scale by as little as {number(low)} (level {at + 1}): {bounded}")
        if high is None or high > THRESHOLDS["largest_scale"].value:
            at = next(k for k, v in enumerate(scales["levels"]) if v["steps"] and v["largest"] == high)
            lines.append(f"couplings scale by as much as {number(high)} (level {at + 1}): {calmer}")
    limit = THRESHOLDS["condition"].value
    for k, level in enumerate(report["conditions"] or []):
        numbers = [math.inf if c is None else c for c in level]
        if bad := sum(c > limit for c in numbers):
            lines.append(
                f"the 1x1 convolution {numbers.index(max(numbers)) + 1} of level {k + 1} is nearly singular, condition "
                f"number {max(numbers):.3g} ({bad} of {len(level)} are beyond {limit:g}): {calmer}, or set "
                "model.permutation=shuffle, which cannot be"
            )
    return lines


def _about_latents(latents: dict[str, Any], examples: int, larger: str) -> Iterator[str]:
    d, norms = latents["dimensions"], latents["squared_norm"]
    n = examples * d
    mean, sd, skewness, kurtosis = (latents[k] for k in ("mean", "sd", "skewness", "excess_kurtosis"))
    clean = True
    if _beyond("mean", mean, 1 / math.sqrt(n)):
        clean = False
        yield f"are too {'high' if mean > 0 else 'low'} by {abs(mean):.3g}: {larger}"
    if _beyond("width", sd - 1, 1 / math.sqrt(2 * n)):
        clean = False
        if sd > 1:
            yield (
                f"are too wide by a factor of {sd:.3g}: new data surprises the flow. If the training loss is "
                "lower, lower trainer.max_epochs or set optimizer=adamw; if not, lower optimizer.lr"
            )
        else:
            factor = 1 / sd if sd else math.inf
            yield f"are too narrow by a factor of {factor:.3g}: the flow spends density where nothing is; {larger}"
    if skewness is not None and _beyond("skewness", skewness, math.sqrt(6 / n)):
        clean = False
        yield f"are lopsided, skewness {skewness:.3g}: {larger}"
    # Twice its standard error: in small samples kurtosis itself has a long tail.
    if kurtosis is not None and _beyond("excess_kurtosis", kurtosis, 2 * math.sqrt(24 / n)):
        clean = False
        yield (
            f"have {'heavy' if kurtosis > 0 else 'light'} tails, excess kurtosis {kurtosis:.3g}: {larger}; lower "
            "trainer.max_epochs if the training loss is much lower"
        )
    if examples >= 10 and sd:  # fewer have no spread worth the name
        spread = norms["sd"] / sd**2
        error = 0.5 * math.sqrt(2 / (examples - 1) + 12 / n)  # chi-square's excess kurtosis is 12 / D
        if _beyond("norm_spread", spread - 1, error):
            clean = False
            yield (
                f"have squared norms that spread {spread:.3g} times as much as chi-square's: some examples fit far "
                f"worse than others; {larger}, and look at those examples"
            )
    # Four times 0.56 / sqrt(n) is the 0.9999 quantile of Kolmogorov's distribution.
    if clean and _beyond("ks", latents["ks"], 0.56 / math.sqrt(n)):
        yield f"are not normal, Kolmogorov-Smirnov distance {latents['ks']:.3g}: {larger}"
    elif clean and _beyond("norm_ks", norms["ks"], 0.56 / math.sqrt(examples)):
        yield f"have squared norms {norms['ks']:.3g} from chi-square's (Kolmogorov-Smirnov distance): {larger}"


def _about_bits(bits: dict[str, Any], unit: str, calmer: str) -> Iterator[str]:
    total, together = bits["total"], bits["log_prob"]
    if total is None or together is None:
        yield f"the mean {unit} is not finite: {calmer}"
    elif _beyond("agreement", (total - together) / max(1.0, abs(together))):
        yield (
            f"the steps one by one give {total:.4f} {unit}, the whole flow {together:.4f}, and should agree: compare "
            "with trainer.precision=64-true and compile=false; if these agree it is precision, else a mistake in the code"
        )


def _about_round_trip(trip: dict[str, Any], bounded: str) -> Iterator[str]:
    limit = THRESHOLDS["round_trip"].value * (trip["data_sd"] or 0.0)
    errors = [math.inf if e is None else e for e in trip["largest"]]
    if errors[0] > limit:
        first = max(i for i, e in enumerate(errors) if e > limit)
        yield (
            f"inverting from the latents misses the data by up to {errors[0]:.3g} (sd of the data "
            f"{number(trip['data_sd'])}) and goes wrong at {trip['steps'][first]}: {bounded}"
        )
    if trip["lost"] is not None and _beyond("lost", trip["lost"]):
        yield f"{trip['lost']:.1%} of the grey levels do not come back from their latents: {bounded}"


def _beyond(name: str, difference: float, standard_error: float = 0.0) -> bool:
    return abs(difference) > max(THRESHOLDS[name].value, _SIGMAS * standard_error)


def number(value: float | None) -> str:
    """Three digits of a figure of the report."""
    return "not finite" if value is None else f"{value:.3g}"
