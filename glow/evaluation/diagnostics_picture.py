"""A report of ``diagnose`` as one picture."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from glow.evaluation.diagnostics import QUANTILES
from glow.evaluation.findings import number
from glow.evaluation.pictures import figure_to_tensor


def diagnostics_picture(report: dict[str, Any]) -> Tensor:
    """A report of ``diagnose`` as one picture: uint8 (3, height, width).

    Per scale the quantiles of latents against a normal's and those of squared norms against chi-square's; then
    bits/dim by scale and kind of step, the round trip's error by depth, the scales of affine couplings and the
    condition numbers of 1x1 convolutions, where there are any. Depth counts from the data; dotted lines separate levels.
    """
    n = len(report["latents"])
    rows = 1 if n <= 2 else 2  # both kinds of quantiles side by side while there is room
    last = [_draw_bits, _draw_round_trip]
    last += [_draw_scales] if report["scales"] else []
    last += [_draw_conditions] if report["conditions"] else []
    figure = Figure(figsize=(max(14.0, 2.8 * n), 3.4 * (rows + 1)), dpi=80, layout="constrained")
    bits, error = report["bits"], report["bits"]["standard_error"]
    figure.suptitle(
        f"{number(bits['total'])} ± {number(error)} {report['unit']} on {report['examples']} held-out examples, "
        f"{report['dtype']}"
    )
    parts: Any = figure.subfigures(2, 1, height_ratios=(rows, 1))
    axes = parts[0].subplots(rows, 2 * n // rows, squeeze=False).ravel()
    for k, latents in enumerate(report["latents"]):
        _draw_quantiles(axes[k], axes[k + n], latents, f"scale {k + 1}")
    for axis, draw in zip(parts[1].subplots(1, len(last)), last, strict=True):
        draw(axis, report)
    return figure_to_tensor(figure)


def _draw_quantiles(values: Any, squared: Any, latents: dict[str, Any], name: str) -> None:
    norms, d = latents["squared_norm"], latents["dimensions"]
    for axis, expected, found in (
        (values, stats.norm.ppf(QUANTILES), _array(latents["quantiles"])),
        (squared, _array(norms["chi_square"]) / d, _array(norms["quantiles"]) / d),
    ):
        axis.plot(expected, expected, color="grey", linewidth=1)
        axis.plot(expected, found, ".", markersize=4)
    values.set_title(f"{name}: mean {number(latents['mean'])}, sd {number(latents['sd'])}", fontsize=10)
    values.set(xlabel="normal quantile", ylabel="latents")
    squared.set_title(f"{name}: {number(norms['sd'])} of chi-square's sd", fontsize=10)
    squared.set(xlabel="chi-square quantile / D", ylabel="squared norms / D")


def _draw_bits(axis: Any, report: dict[str, Any]) -> None:
    table = report["bits"]["table"]
    kinds = list(table[0])
    height = 0.8 / len(table)
    for k, row in enumerate(table):
        places = np.arange(len(kinds)) + (k - (len(table) - 1) / 2) * height
        axis.barh(places, _array(list(row.values())), height, label=f"scale {k + 1}")
    axis.set_yticks(range(len(kinds)), kinds)
    axis.invert_yaxis()
    axis.axvline(0, color="grey", linewidth=1)
    axis.legend(fontsize=8)
    axis.set_title(f"where the {report['unit']} come from", fontsize=10)
    axis.set(xlabel=report["unit"])


def _draw_round_trip(axis: Any, report: dict[str, Any]) -> None:
    trip = report["round_trip"]
    lost = "" if trip["lost"] is None else f", {trip['lost']:.2%} of levels lost"
    _draw_logarithmic(axis, {"largest": trip["largest"], "median": trip["median"]}, trip["scale"])
    axis.set_title(f"round trip{lost}", fontsize=10)
    axis.set(xlabel="depth (steps from the data)", ylabel="|difference|")


def _draw_scales(axis: Any, report: dict[str, Any]) -> None:
    levels = [level["steps"] for level in report["scales"]["levels"]]
    low, high = zip(*(pair for level in levels for pair in level), strict=True)
    _draw_logarithmic(axis, {"largest": high, "smallest": low}, _level_of_each(levels), marker=".")
    axis.set_title("scales of affine couplings", fontsize=10)
    axis.set(xlabel="coupling", ylabel="scale")


def _draw_conditions(axis: Any, report: dict[str, Any]) -> None:
    levels = report["conditions"]
    _draw_logarithmic(axis, {"": [c for level in levels for c in level]}, _level_of_each(levels), marker=".")
    axis.set_title("1x1 convolutions", fontsize=10)
    axis.set(xlabel="convolution", ylabel="condition number")


def _level_of_each(levels: Sequence[Sequence[Any]]) -> list[int]:
    return [k for k, level in enumerate(levels) for _ in level]


def _draw_logarithmic(
    axis: Any, series: dict[str, Sequence[float | None]], scale: list[int], marker: str = ""
) -> None:
    """Series over depth; what is zero or not finite leaves a gap."""
    for name, values in series.items():
        found = _array(values)
        axis.plot(
            np.arange(len(found)),
            np.where(found > 0, found, np.nan),
            marker=marker,
            linewidth=1.2,
            label=name,
        )
    known = [v for values in series.values() for v in values if v]
    if known and max(known) > 10 * min(known):
        axis.set_yscale("log")
    axis.locator_params(axis="x", integer=True)
    for i in range(1, len(scale)):
        if scale[i] != scale[i - 1]:
            axis.axvline(i - 0.5, color="grey", linestyle=":", linewidth=1)
    if len(series) > 1:
        axis.legend(fontsize=8)


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values])
