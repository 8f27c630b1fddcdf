#!/usr/bin/env python3
"""The pictures of introductions to flows, redrawn: trains what a picture shows by ``train.py`` and draws its density.

    python scripts/introductions.py                 # all of them: ten minutes of two cores
    python scripts/introductions.py two_kls         # one
    python scripts/introductions.py --steps 20      # whether it runs

    baselines   a kernel estimate and a mixture of Gaussians beside flows
    two_kls     forward KL covers what reverse KL leaves out
    bridges     an invertible map cannot tear its base: log-densities, where bridges show

Runs and pictures live in ``--out``; a run that is finished is read, not repeated.
"""

import argparse
import math
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from flows import run_name, toy, train
from torch import Tensor

import glow
from glow.evaluation.plane import fit_baselines

LogProb = Callable[[Tensor], Tensor]
"""Points (N, 2) -> (N,), nats."""
SIDE = 300
"""Densities are computed at SIDE x SIDE points."""
DEEPEST = 12
"""Nats below the highest log-density, where its colours end."""


class Picture(NamedTuple):
    """A row of panels: data, then a density each."""

    data: str
    """Overrides of ``train.py``."""
    half: float
    """The square from -half to half is drawn."""
    runs: dict[str, str]
    """By title, overrides beside those of the data."""
    classical: bool = False
    log: bool = False


GAUSSIAN = "model=realnvp model.layers=2 model.hidden=2 model.hidden_layers=1"
PICTURES = {
    "baselines": Picture(
        "dataset=checkerboard", 5, {"RealNVP": "model=realnvp", "neural splines": "model=nsf"}, classical=True
    ),
    "two_kls": Picture(
        "dataset=bimodal dataset.noise=0.3", 4,
        {"forward KL": GAUSSIAN, "reverse KL": f"experiment=reverse_kl {GAUSSIAN}"},
    ),
    "bridges": Picture(
        "dataset=eight_gaussians", 3.5,
        {
            "RealNVP": "model=realnvp", "neural splines": "model=nsf",
            "RealNVP, mixture base": "model=realnvp model.base=mixture",
        }, log=True,
    ),
}  # fmt: skip


def log_probs(picture: Picture, runs: dict[str, Path], points: Tensor) -> dict[str, LogProb]:
    """By title, the densities beside the data's."""
    found: dict[str, LogProb] = {}
    if picture.classical:
        for title, model in zip(("kernels", "mixture of Gaussians"), fit_baselines(points), strict=True):
            found[title] = lambda x, model=model: torch.from_numpy(model.score_samples(x.numpy()))
    for title, folder in runs.items():
        found[title] = glow.load(folder).log_prob
    return found


@torch.no_grad()
def draw(picture: Picture, runs: dict[str, Path], path: Path) -> None:
    """Data and densities side by side, on one scale of colours."""
    from matplotlib.figure import Figure

    data = toy(*picture.data.split())
    target, points = data.density, data.arrays("train")[0]
    axis = torch.linspace(-picture.half, picture.half, SIDE)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(-1, 2)
    values = {title: f(grid).view(SIDE, SIDE) for title, f in log_probs(picture, runs, points).items()}
    highest = (target.log_prob(grid.double()) - target.log_normalizer).max().item()
    low, high = (highest - DEEPEST, highest) if picture.log else (0.0, math.exp(highest))

    figure = Figure(figsize=(2.6 * (1 + len(values)), 3.2), dpi=90, layout="constrained")
    first, *panels = figure.subplots(1, 1 + len(values), sharex=True, sharey=True)
    first.scatter(*points[:2_000].T.numpy(), s=1)
    first.set(
        title="data", aspect="equal", xlim=(-picture.half, picture.half), ylim=(-picture.half, picture.half)
    )
    for axes, (title, value) in zip(panels, values.items(), strict=True):
        shown = value if picture.log else value.exp()
        axes.imshow(
            shown.numpy(), origin="lower", extent=(-picture.half, picture.half) * 2, vmin=low, vmax=high
        )
        axes.set_title(title)
    figure.supxlabel(
        f"log-density, down to {DEEPEST} nats below the peak" if picture.log else "density", fontsize=10
    )
    figure.savefig(path)


def main() -> None:
    """Parse the command line, train what is missing, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "pictures", nargs="*", metavar="PICTURE", help=f"{', '.join(PICTURES)} (default: all)"
    )
    parser.add_argument("--steps", type=int, default=None, help="of each run (default: the configured ones)")
    parser.add_argument("--seed", type=int, default=0, help="of each run (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each (default 2)")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/introductions"), help="default outputs/introductions"
    )
    args = parser.parse_args()
    for name in args.pictures:
        if name not in PICTURES:
            parser.error(f"{name} is not one of {', '.join(PICTURES)}")
    for name in args.pictures or PICTURES:
        picture = PICTURES[name]
        keys = [(title, name) for title in picture.runs]
        runs = [f"{overrides} {picture.data}" for overrides in picture.runs.values()]
        with ThreadPoolExecutor(args.jobs) as pool:
            done = list(pool.map(partial(train, "introductions", args), keys, runs))
        for (title, _), result in zip(keys, done, strict=True):
            if "error" in result:
                sys.exit(f"{name}: {title}: {result['error']}")
        folders = {key[0]: args.out / run_name("introductions", key) for key in keys}
        draw(picture, folders, args.out / f"{name}.png")
        print(args.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
