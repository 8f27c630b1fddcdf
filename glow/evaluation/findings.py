"""What looks wrong in a report of ``diagnose``, in words, and which settings to change."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Threshold(NamedTuple):
    """Report a metric beyond this value."""

    value: float
    meaning: str


THRESHOLDS: dict[str, Threshold] = {
    "overfitting": Threshold(
        0.1, "Mean of held-out examples less that of training examples, bits/dim or nats."
    ),
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
"""The sizes of effects that ``findings`` reports; with few examples an effect must be larger (see ``findings``)."""

_SIGMAS = 4.0
"""So many standard errors may be chance."""

# Advice, by the unit of the report where settings differ between images and points.
STABILIZE = "lower optimizer.lr, raise schedule.warmup_epochs or set fit.gradient_clip_val"
BOUND_SCALES = f"raise model.min_scale, {STABILIZE}"
ENLARGE = {
    "bits/dim": "raise fit.max_epochs, model.depth or model.width",
    "nats": "raise fit.max_steps, model.layers or model.hidden",
}
REGULARIZE = {
    "bits/dim": "lower fit.max_epochs, model.depth or model.width, or set optimizer=adamw",
    "nats": "lower fit.max_steps, model.layers or model.hidden, or set optimizer=adamw",
}


def findings(report: dict[str, Any], training: float | None = None) -> list[str]:
    """What looks wrong in a report of ``diagnose``: a line for each metric, with its value and the settings to change.

    A metric is named when it differs from the value of an exact flow by more than its threshold, and by more than four
    standard errors of what an exact flow would give on as many examples. An empty list: nothing looks wrong.

    Args:
        report: of held-out examples.
        training: the mean bits/dim or nats of about as many training examples, in the unit of the report. Where it is
            better than the held-out mean, the flow overfits: it should train for a shorter time, never for a longer one.
    """
    unit, images = report["unit"], report["unit"] == "bits/dim"
    overfits = _overfits(report["bits"], training)
    lines = []
    if overfits:
        lines.append(
            f"the mean {unit} is {training:.4f} on training examples and {report['bits']['total']:.4f} on held-out ones, "
            f"so that the flow overfits: {REGULARIZE[unit]}"
        )
    advice = REGULARIZE[unit] if overfits else ENLARGE[unit]
    if overfits:
        widen = REGULARIZE[unit]
    elif training is not None:
        widen = "lower optimizer.lr"
    else:
        widen = f"if the training loss is lower, {REGULARIZE[unit]}; if not, lower optimizer.lr"
    for k, latents in enumerate(report["latents"]):
        where = f"the latents of scale {k + 1} of {len(report['latents'])}"
        if latents["finite"] < 1:
            lines.append(f"{1 - latents['finite']:.2%} of {where} are not finite: {STABILIZE}")
        else:
            lines += [
                f"{where} {what}" for what in _latent_findings(latents, report["examples"], advice, widen)
            ]
    lines += _bits_findings(report["bits"], unit)
    lines += _round_trip_findings(report["round_trip"], BOUND_SCALES if images else STABILIZE)
    lines += _scale_findings(report["scales"], BOUND_SCALES if images else STABILIZE)
    lines += _condition_findings(report["conditions"] or [])
    return lines


def _overfits(bits: dict[str, Any], training: float | None) -> bool:
    """Both means have about the same standard error, so that of their difference is the square root of two times it."""
    if training is None or bits["total"] is None or training > bits["total"]:
        return False
    return exceeds("overfitting", bits["total"] - training, math.sqrt(2) * (bits["standard_error"] or 0.0))


def _latent_findings(latents: dict[str, Any], examples: int, advice: str, widen: str) -> Iterator[str]:
    d, norms = latents["dimensions"], latents["squared_norm"]
    n = examples * d
    mean, sd, skewness, kurtosis = (latents[k] for k in ("mean", "sd", "skewness", "excess_kurtosis"))
    clean = True
    if exceeds("mean", mean, 1 / math.sqrt(n)):
        clean = False
        yield f"are too {'high' if mean > 0 else 'low'} by {abs(mean):.3g}: {advice}"
    if exceeds("width", sd - 1, 1 / math.sqrt(2 * n)):
        clean = False
        if sd > 1:
            yield f"are too wide by a factor of {sd:.3g}: held-out data surprises the flow; {widen}"
        else:
            factor = 1 / sd if sd else math.inf
            yield f"are too narrow by a factor of {factor:.3g}: the flow has density where no data is; {advice}"
    if skewness is not None and exceeds("skewness", skewness, math.sqrt(6 / n)):
        clean = False
        yield f"are lopsided, skewness {skewness:.3g}: {advice}"
    # Twice its standard error: in small samples kurtosis itself has a long tail.
    if kurtosis is not None and exceeds("excess_kurtosis", kurtosis, 2 * math.sqrt(24 / n)):
        clean = False
        yield f"have {'heavy' if kurtosis > 0 else 'light'} tails, excess kurtosis {kurtosis:.3g}: {advice}"
    if examples >= 10 and sd:  # the spread of fewer examples says nothing
        spread = norms["sd"] / sd**2
        error = 0.5 * math.sqrt(2 / (examples - 1) + 12 / n)  # chi-square's excess kurtosis is 12 / D
        if exceeds("norm_spread", spread - 1, error):
            clean = False
            yield (
                f"have squared norms that spread {spread:.3g} times as much as chi-square's: some examples fit far "
                f"worse than others; {advice}, and look at those examples"
            )
    # Four times 0.56 / sqrt(n) is the 0.9999 quantile of Kolmogorov's distribution.
    if clean and exceeds("ks", latents["ks"], 0.56 / math.sqrt(n)):
        yield f"are not normal, Kolmogorov-Smirnov distance {latents['ks']:.3g}: {advice}"
    elif clean and exceeds("norm_ks", norms["ks"], 0.56 / math.sqrt(examples)):
        yield f"have squared norms {norms['ks']:.3g} from chi-square's (Kolmogorov-Smirnov distance): {advice}"


def _bits_findings(bits: dict[str, Any], unit: str) -> Iterator[str]:
    total, together = bits["total"], bits["log_prob"]
    if total is None or together is None:
        yield f"the mean {unit} is not finite: {STABILIZE}"
    elif exceeds("agreement", (total - together) / max(1.0, abs(together))):
        yield (
            f"the steps one by one give {total:.4f} {unit}, the whole flow {together:.4f}, and should agree: compare "
            "with trainer.precision=64-true and compile=false; if these agree it is precision, else a mistake in the code"
        )


def _round_trip_findings(trip: dict[str, Any], advice: str) -> Iterator[str]:
    limit = THRESHOLDS["round_trip"].value * (trip["data_sd"] or 0.0)
    errors = [math.inf if e is None else e for e in trip["largest"]]
    if errors[0] > limit:
        first = max(i for i, e in enumerate(errors) if e > limit)
        yield (
            f"inverting from the latents misses the data by up to {errors[0]:.3g} (sd of the data "
            f"{number(trip['data_sd'])}) and goes wrong at {trip['steps'][first]}: {advice}"
        )
    if trip["lost"] is not None and exceeds("lost", trip["lost"]):
        yield f"{trip['lost']:.1%} of the grey levels do not come back from their latents: {advice}"


def _scale_findings(scales: dict[str, Any] | None, advice: str) -> Iterator[str]:
    if scales is None:
        return
    low, high = scales["smallest"], scales["largest"]
    if low is None or low < THRESHOLDS["smallest_scale"].value:
        yield f"couplings scale by as little as {number(low)} (level {_level_of('smallest', scales)}): {advice}"
    if high is None or high > THRESHOLDS["largest_scale"].value:
        yield f"couplings scale by as much as {number(high)} (level {_level_of('largest', scales)}): {STABILIZE}"


def _level_of(extreme: str, scales: dict[str, Any]) -> int:
    """The first level, counted from one, that has the extreme of all."""
    levels = enumerate(scales["levels"], start=1)
    return next(k for k, level in levels if level["steps"] and level[extreme] == scales[extreme])


def _condition_findings(levels: Sequence[Sequence[float | None]]) -> Iterator[str]:
    limit = THRESHOLDS["condition"].value
    for k, level in enumerate(levels, start=1):
        numbers = [math.inf if c is None else c for c in level]
        if bad := sum(c > limit for c in numbers):
            yield (
                f"the 1x1 convolution {numbers.index(max(numbers)) + 1} of level {k} is nearly singular, condition "
                f"number {max(numbers):.3g} ({bad} of {len(level)} are beyond {limit:g}): {STABILIZE}, or set "
                "model.permutation=shuffle, which is never singular"
            )


def exceeds(name: str, difference: float, standard_error: float = 0.0) -> bool:
    """Whether a difference is beyond its threshold and beyond chance."""
    return abs(difference) > max(THRESHOLDS[name].value, _SIGMAS * standard_error)


def number(value: float | None) -> str:
    """A metric of the report with three digits."""
    return "not finite" if value is None else f"{value:.3g}"
