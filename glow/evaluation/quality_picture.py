"""Quality against temperature and guidance, as a picture."""

from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from glow.evaluation.pictures import figure_to_tensor


def quality_picture(found: dict[str, Any]) -> Tensor:
    """FID and agreement (or recall, without labels) by temperature, a line per guidance; dotted: training images.

    Args:
        found: ``quality`` of ``evaluation.json``.

    Returns:
        uint8 (3, height, width).
    """
    rows, second = found["samples"], "recall" if found["accuracy"] is None else "agreement"
    floors = {
        "fid": found["training"]["fid"],
        "recall": found["training"]["recall"],
        "agreement": found["accuracy"],
    }
    titles = {"fid": "FID (lower is better)", "recall": "recall", "agreement": "samples seen as their label"}
    figure = Figure(figsize=(10, 4), dpi=80, layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), ("fid", second), strict=True):
        for guidance in sorted({row["guidance"] for row in rows}):
            points = sorted((row["temperature"], row[key]) for row in rows if row["guidance"] == guidance)
            axes.plot(*zip(*points, strict=True), marker="o", label=f"guidance {guidance:g}")
        axes.axhline(floors[key], color="grey", linestyle=":", label="training images")
        axes.set(title=titles[key], xlabel="temperature")
        axes.legend()
    return figure_to_tensor(figure)
