#!/usr/bin/env python3
"""Bits/dim against minutes of one or more runs, beside published figures, as one picture.

    python scripts/curves.py outputs/fashion_75min outputs/mnist_75min --out docs/curves.png

The curves are those of validation (averaged weights), read from the runs' TensorBoard files; the last point is the test figure.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glow.errors import UsageError

TRAINED = {
    "fashion_mnist": [("Glow, published, about", 2.96), ("a public flow of 69 M parameters", 3.14)],
    "mnist": [("Glow, published", 1.05), ("FFJORD", 0.99), ("Residual Flow", 0.97)],
}
"""Test figures of others, trained to their end, over 784 dimensions."""
TEN_MINUTES = {"fashion_mnist": [("public ports of Glow on two cores", 3.85), ("", 3.94)]}
"""Of others after ten minutes on two cores."""


def curve(run: Path) -> tuple[list[float], list[float]]:
    """Minutes since the start and the validation's bits/dim."""
    files = sorted(run.rglob("events.out.tfevents.*"), key=lambda p: p.stat().st_mtime)
    if not files:
        raise UsageError(f"{run} has no TensorBoard files")
    events = EventAccumulator(str(files[-1].parent))
    events.Reload()
    start = min(events.Scalars(tag)[0].wall_time for tag in events.Tags()["scalars"])
    found = events.Scalars("val/bpd")
    return [(event.wall_time - start) / 60 for event in found], [event.value for event in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    args = parser.parse_args()
    figure = Figure(figsize=(5.5 * len(args.runs), 4), dpi=90, layout="constrained")
    for axes, run in zip(figure.subplots(1, len(args.runs), squeeze=False)[0], args.runs, strict=True):
        results = json.loads((run / "results.json").read_text())
        data, test = results["dataset"], results["test"]["ema"]
        minutes, values = curve(run)
        axes.plot(minutes, values, marker=".", label="validation")
        axes.plot(results["train_seconds"] / 60, test, "k*", label=f"test: {test:.3f}")
        for name, value in TRAINED.get(data, []):
            axes.axhline(value, color="grey", linewidth=0.8, linestyle="--")
            axes.annotate(f"{name} {value:.2f}", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color="grey")  # fmt: skip
        for name, value in TEN_MINUTES.get(data, []):
            axes.plot(10, value, "x", color="tab:red", label=name or None)
        axes.set(title=data, xlabel="minutes", ylabel="bits/dim")
        axes.legend()
    figure.savefig(args.out)


if __name__ == "__main__":
    main()
