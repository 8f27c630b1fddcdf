#!/usr/bin/env python3
"""The figures of docs/flows.md: trains every small flow by ``train.py`` and prints what became of it as tables.

    python scripts/flows.py                       # everything: about two hours on two cores
    python scripts/flows.py nll --only nsf        # one table, and of it the rows whose name contains nsf
    python scripts/flows.py reverse_kl --steps 50 # whether it runs

Runs live in ``--out``; a run that is finished is read, not repeated, so that an interrupted call goes on where it was.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

TOYS = (
    "two_moons", "bimodal", "eight_gaussians", "pinwheel", "checkerboard", "rings", "two_spirals", "banana",
)  # fmt: skip
FAMILIES = {
    "nice": "", "realnvp": "", "maf": "", "iaf": "", "nsf": "", "nsf_autoregressive": "model=nsf model.autoregressive=true",
    "planar": "", "radial": "", "made": "", "ffjord": "", "residual": "", "realnvp_mixture": "model=realnvp model.base=mixture",
}  # fmt: skip
CLASSICAL = {"kde": "kernel estimate", "gmm": "mixture of Gaussians"}
DENSITIES = ("banana", "rings", "double_well", "energy_1", "energy_2", "energy_3", "energy_4")
REVERSE = {
    "nsf": "experiment=reverse_kl",
    "planar": "experiment=reverse_kl model=planar model.direction=sampling",
}
POSTERIORS = ("gaussian", "planar", "iaf", "sylvester")
DEPTHS = (1, 2, 4, 8, 16)

Runs = dict[tuple[str, str], str]
"""Row and column of the table, and the overrides of ``train.py``."""

TABLES: dict[str, Runs] = {
    "nll": {
        (family, name): f"{overrides or f'model={family}'} dataset={name}"
        for family, overrides in FAMILIES.items()
        for name in TOYS
    },
    "reverse_kl": {
        (model, target): f"{overrides} dataset={target}"
        for model, overrides in REVERSE.items()
        for target in DENSITIES
    },
    "depth": {
        (family, str(n)): f"dataset=two_moons model={family} model.layers={n}"
        for family in ("realnvp", "nsf")
        for n in DEPTHS
    },
    "vae": {
        (posterior, "digits"): f"experiment=vae model.posterior={posterior}" for posterior in POSTERIORS
    },
    "made": {
        ("one order", "digits"): "experiment=made",
        ("order-agnostic", "digits"): "experiment=made model.order_agnostic=true",
        ("connectivity-agnostic", "digits"): "experiment=made model.connectivity_agnostic=true",
        ("both", "digits"): "experiment=made model.order_agnostic=true model.connectivity_agnostic=true",
    },
    "boltzmann": {
        ("realnvp", system): f"experiment=boltzmann dataset={system}" for system in ("double_well", "dimer")
    },
    "images": {
        **{(model, "digits"): f"experiment={model}_digits" for model in ("nice", "realnvp", "ffjord", "residual")},
        ("pixelcnn", "digits"): "dataset=digits model=pixelcnn",
        ("pixelrnn", "digits"): "dataset=digits model=pixelrnn optimizer.lr=0.02",
    },
}  # fmt: skip


def shown(args: argparse.Namespace, key: tuple[str, str]) -> bool:
    """Whether ``--only`` leaves a row or column in."""
    return args.only in key[0] or args.only in key[1]


def run_name(table: str, key: tuple[str, str]) -> str:
    """The folder of a run."""
    return "-".join((table, *key)).replace(",", "").replace(" ", "_")


def train(table: str, args: argparse.Namespace, key: tuple[str, str], overrides: str) -> dict[str, Any]:
    """The results of one run; trains it unless that is done."""
    name = run_name(table, key)
    command = [
        sys.executable, "train.py", *overrides.split(), f"name={name}", f"output_dir={args.out.resolve()}",
        f"seed={args.seed}", "logger=csv", *([f"fit.max_steps={args.steps}", "fit.max_epochs=null"] if args.steps else []),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}
    results: dict[str, Any] = json.loads((args.out / name / "results.json").read_text())
    if table == "vae":
        evaluate = [
            sys.executable, "evaluate.py", f"ckpt={args.out.resolve() / name}", "draws=200", "bound=iw", "weights=ema",
        ]  # fmt: skip
        done = subprocess.run(evaluate, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            return {"error": (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}
        [report] = (args.out / name / "evaluation").glob("*/evaluation.json")
        results["iw"] = json.loads(report.read_text())["weights"]["ema"]["mean"]
    return results


def figure(table: str, results: dict[str, Any]) -> str:
    """What the cell says."""
    if "error" in results:
        return f"failed: {results['error']}"
    test = results["test"].get("ema", results["test"].get("raw"))
    if test is None:
        return "not finite"
    if "reverse_kl" in results:
        report = results["reverse_kl"]
        wells = f", {report['free_energy_estimate']:.3f} kT" if report.get("free_energy_estimate") else ""
        return f"{report['elbo_gap']:.3f} ({report['ess']:.0%}){wells}"
    if table == "nll":
        return f"{test - results['true_nll']:.3f}"
    if table == "vae":
        return f"{-test:.2f}, {-results['iw']:.2f}"
    return f"{test:.3f}"


def markdown(cells: dict[tuple[str, str], str]) -> str:
    """A table of the cells by row and column."""
    rows, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def truths(found: Iterable[tuple[str, dict[str, Any]]]) -> dict[tuple[str, str], str]:
    """The row of the entropies."""
    return {("entropy, nats", toy): f"{r['true_nll']:.3f}" for toy, r in found if "true_nll" in r}


def toy(*overrides: str, seed: int = 0) -> Any:
    """The data module of points in the plane that ``train.py`` would train on, its splits loaded."""
    from glow.commands.build import make
    from glow.commands.main import compose

    data = make("dataset", compose("train", list(overrides)).dataset, seed=seed)
    data.setup("fit")
    data.setup("test")
    return data


def classical(name: str, seed: int) -> dict[tuple[str, str], str]:
    """The rows of a kernel density estimate and a mixture of Gaussians, fitted to the same points."""
    from glow.evaluation.plane import baselines

    data = toy(f"dataset={name}", seed=seed)
    test = data.arrays("test")[0]
    truth = data.true_nll(test)
    fitted = baselines(data.arrays("train")[0], test, seed)
    return {(CLASSICAL[row], name): f"{values['nll'] - truth:.3f}" for row, values in fitted.items()}


def draw_depth(results: dict[tuple[str, str], dict[str, Any]], path: Path) -> None:
    """Test negative log-likelihood against the number of layers, a line per family, and the entropy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=80, layout="constrained")
    axes = figure.subplots()
    good = {key: r for key, r in results.items() if "error" not in r}
    for family in dict.fromkeys(key[0] for key in good):
        points = [(int(n), r["test"]["raw"]) for (row, n), r in good.items() if row == family]
        axes.plot(*zip(*points, strict=True), "o-", label=family)
    axes.axhline(min(r["true_nll"] for r in good.values()), color="black", linestyle=":", label="entropy")
    axes.set(xscale="log", xlabel="layers", ylabel="test negative log-likelihood, nats", title="two moons")
    axes.set_xticks(DEPTHS, labels=map(str, DEPTHS))
    axes.legend()
    figure.savefig(path)


def main() -> None:
    """Parse the command line and go through the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)} (default: all)")
    parser.add_argument("--only", default="", help="rows and columns whose names contain this")
    parser.add_argument("--steps", type=int, default=None, help="of each run (default: the configured ones)")
    parser.add_argument("--seed", type=int, default=0, help="of each run (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each (default 2)")
    parser.add_argument("--out", type=Path, default=Path("outputs/flows"), help="default outputs/flows")
    args = parser.parse_args()
    for table in args.tables:
        if table not in TABLES:
            parser.error(f"{table} is not one of {', '.join(TABLES)}")
    for table in args.tables or TABLES:
        runs = {k: v for k, v in TABLES[table].items() if shown(args, k)}
        with ThreadPoolExecutor(args.jobs) as pool:
            done = pool.map(partial(train, table, args), runs, runs.values())
            results = {}
            for key, result in zip(runs, done, strict=True):
                results[key] = result
                print(f"{table}: {', '.join(key)}: {figure(table, result)}", file=sys.stderr, flush=True)
        cells = {key: figure(table, result) for key, result in results.items()}
        if table == "nll":
            for name in TOYS:
                if any(shown(args, (row, name)) for row in CLASSICAL.values()):
                    found = classical(name, args.seed).items()
                    cells |= {key: text for key, text in found if shown(args, key)}
            cells |= truths((key[1], result) for key, result in results.items())
        print(f"\n{table}\n\n{markdown(cells)}\n", flush=True)
        if args.out.is_dir():
            if table == "depth" and any("error" not in r for r in results.values()):
                draw_depth(results, args.out / "depth.png")
            path = args.out / f"{table}.json"
            path.write_text(json.dumps({", ".join(k): r for k, r in results.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
