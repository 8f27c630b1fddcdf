"""The view Runs: curves and pictures of the folders below ``output_dir``, while they train, too."""

import base64
import csv
import json
import math
from pathlib import Path
from typing import Any

from glow.demo.ask import Ask
from glow.demo.jobs import Event
from glow.demo.models import runs_below
from glow.errors import UsageError, check_choice

POINTS = 400
"""Of a curve, at most: more than a page has pixels for."""
MOST_RUNS = 6
"""Next to one another."""


def list_runs(ask: Ask) -> Event:
    """All runs, those that changed last first, with their test figure if they are finished."""
    found = []
    for name, folder in runs_below(ask.models.output_dir).items():
        changed = max(path.stat().st_mtime for path in folder.iterdir() if path.suffix in (".yaml", ".csv"))
        found.append({"name": name, "changed": changed, "test": _test(folder)})
    return {"runs": sorted(found, key=lambda run: -run["changed"])}


def show_runs(ask: Ask) -> Event:
    """The curves of some runs, and the names of their pictures, the newest first."""
    runs = runs_below(ask.models.output_dir)
    shown = {}
    for name in ask.refs("runs", MOST_RUNS):
        check_choice("runs", name, runs)
        folder = runs[name]
        shown[name] = {"curves": curves(folder), "pictures": _pictures(folder), "test": _test(folder)}
    return {"runs": shown}


def show_picture(ask: Ask) -> Event:
    """One picture of a run's ``samples``."""
    runs = runs_below(ask.models.output_dir)
    folder = runs[ask.text("run", runs)]
    name = ask.text("picture", [p["name"] for p in _pictures(folder)])
    content = (folder / "samples" / name).read_bytes()
    return {"picture": f"data:image/png;base64,{base64.b64encode(content).decode()}"}


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What ``metrics.csv`` of a run holds: (step, value) by name, thinned to ``POINTS``."""
    found: dict[str, list[tuple[int, float]]] = {}
    try:
        with (folder / "metrics.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                for key, value in row.items():
                    wanted = key and key.startswith(("train/", "val/")) and value and row["step"]
                    if wanted and math.isfinite(number := float(value)):
                        found.setdefault(key, []).append((int(row["step"]), number))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UsageError(f"metrics.csv of {folder.name} cannot be read ({error})") from error
    return {
        key: points[:: -1 - len(points) // POINTS][::-1] for key, points in found.items()
    }  # with the last


def _pictures(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "samples").glob("*.png"), key=lambda p: p.stat().st_mtime, reverse=True)
    return [{"name": p.name, "changed": p.stat().st_mtime} for p in paths]


def _test(folder: Path) -> dict[str, float]:
    """The test figures by the kind of weights; none before the end."""
    try:
        figures = json.loads((folder / "results.json").read_text())["test"]
        return {kind: figure for kind, figure in figures.items() if math.isfinite(figure)}
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return {}


HANDLERS = {"runs": list_runs, "curves": show_runs, "picture": show_picture}
