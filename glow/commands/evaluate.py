"""``python evaluate.py``: bits/dim, diagnostics and the detection of other data."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from glow.commands.inputs import dataset_config, load_split, open_saved
from glow.data import ArrayData
from glow.data.base import Arrays, Split
from glow.data.sampler import EpochBatches
from glow.errors import UsageError, check_bool, check_choice, check_positive
from glow.evaluation.bits import BOUNDS, UNITS, bits_per_dim, evaluate_log_probs, summary
from glow.evaluation.diagnostics import diagnose
from glow.evaluation.diagnostics_picture import diagnostics_picture
from glow.evaluation.findings import findings
from glow.evaluation.ood import ood_picture, ood_report, ood_scores, png_bits, verdict
from glow.evaluation.pictures import save_picture
from glow.evaluation.plane import baselines, plane_picture
from glow.flow import Flow
from glow.saved import Saved
from glow.seeds import generator

TYPICAL = 2000
"""Training images whose mean bits/dim says what is typical."""
WORSE = 0.05
"""By so many nats a flow of points may be worse than a baseline without a word."""


@dataclass
class Measurement:
    """What is to be measured, and how."""

    cfg: DictConfig
    saved: Saved
    flow: Flow
    seed: int

    def load(self, overrides: list[str], split: Split) -> tuple[ArrayData, Arrays]:
        """A split of the data that the command line or the checkpoint names, cut at ``limit``."""
        data, (x, y) = load_split(dataset_config(overrides, self.saved), split, self.flow, self.saved.seed)
        limit = self.cfg.limit
        return data, (x[:limit], None if y is None else y[:limit])

    def figures(self, arrays: Arrays, split: Split, batch_size: int, what: str) -> Tensor:
        """Bits/dim or nats of every example (N,), in the batches of the training's own test."""
        x, y = arrays
        if self.flow.classes and y is None:
            raise UsageError("the model is class-conditional and needs labels, which this data has not")
        batches = (
            tuple(t[i].to(self.flow.device) for t in (x, y) if t is not None)
            for i in EpochBatches(len(x), batch_size, shuffle=False)
        )
        with tqdm(total=len(x), desc=what, delay=2, disable=not sys.stderr.isatty()) as bar:
            log_probs = evaluate_log_probs(
                self.flow, batches, split=split, seed=self.seed, draws=self.cfg.draws, bound=self.cfg.bound,
                progress=lambda done: bar.update(done - bar.n),
            )  # fmt: skip
        return bits_per_dim(log_probs, self.flow.event_shape) if self.flow.dequantize else -log_probs


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Measure as configured; everything goes to the run's ``evaluation/DATASET-SPLIT``.

    Args:
        cfg: the composed ``conf/evaluate.yaml``.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        UsageError: a setting that cannot work.
    """
    check_choice("split", cfg.split, ("train", "val", "test"))
    check_choice("bound", cfg.bound, BOUNDS)
    check_bool("diagnostics", cfg.diagnostics)
    check_positive("diagnosed", cfg.diagnosed, integer=True)
    for key in ("limit", "batch_size", "draws"):
        if cfg[key] is not None:
            check_positive(key, cfg[key], integer=True)
    if cfg.seed is not None:
        check_positive("seed", cfg.seed, integer=True, zero=True)
    saved, device = open_saved(cfg)
    seed = saved.seed if cfg.seed is None else cfg.seed
    flow = saved.flow(cfg.weights).to(device)
    measurement = Measurement(cfg, saved, flow, seed)
    overrides = list(cfg.dataset)
    if cfg.ood is not None and flow.dequantize is None:
        raise UsageError("ood needs a model of images, and this one is of points")
    pair = _pair(cfg.ood, overrides)
    data, arrays = measurement.load(pair[0] if pair else overrides, cfg.split)
    folder = Path(cfg.out) if cfg.out else saved.folder / "evaluation" / f"{data.name}-{cfg.split}"
    folder.mkdir(parents=True, exist_ok=True)
    unit = UNITS["bpd" if flow.dequantize else "nll"]
    report: dict[str, Any] = {
        "ckpt": str(saved.path), "steps": saved.steps, "dataset": data.name, "split": cfg.split, "unit": unit,
        "dimensions": math.prod(flow.event_shape), "seed": seed, "draws": cfg.draws, "bound": cfg.bound,
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip
    values = _measure(measurement, data, arrays, report)
    _write_csv(folder / "per_image.csv", values, arrays[1])
    if pair:
        report["ood"] = _detect(measurement, data, arrays, values[_chosen(measurement)], pair, folder)
    if cfg.diagnostics:
        report["diagnostics"] = _diagnose(measurement, arrays, folder)
        if flow.event_shape == (2,):
            report["baselines"] = _compare_in_the_plane(measurement, data, arrays, folder, report)
    (folder / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"in {folder}: {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return report


def _pair(ood: str | None, overrides: list[str]) -> tuple[list[str], list[str]] | None:
    """The overrides of the data that was trained on, and of the other."""
    if ood is None:
        return None
    names = str(ood).split(":")
    rest = [o for o in overrides if not o.startswith("dataset=")]
    if len(names) == 1:
        return overrides, [f"dataset={names[0]}", *rest]
    if len(names) != 2 or not all(names):
        raise UsageError(f"ood={ood} must be IN_DISTRIBUTION:OTHER, two datasets, or the other alone")
    if len(rest) < len(overrides):
        raise UsageError("ood names both datasets: leave out dataset=, or give ood the other one alone")
    return [f"dataset={names[0]}", *rest], [f"dataset={names[1]}", *rest]


def _chosen(measurement: Measurement) -> str:
    return measurement.cfg.weights or measurement.saved.best


def _measure(
    measurement: Measurement, data: ArrayData, arrays: Arrays, report: dict[str, Any]
) -> dict[str, Tensor]:
    """The figures of the asked weights, or of both kinds."""
    cfg, saved = measurement.cfg, measurement.saved
    kinds = [cfg.weights] if cfg.weights else sorted(saved.weights)
    values, report["weights"] = {}, {}
    print(
        f"{data.name}, {cfg.split} split, {len(arrays[0]):,} examples, noise seed {measurement.seed}",
        flush=True,
    )
    for kind in kinds:
        start = time.monotonic()
        flow = (
            measurement.flow if kind == _chosen(measurement) else saved.flow(kind).to(measurement.flow.device)
        )
        measured = Measurement(cfg, saved, flow, measurement.seed)
        values[kind] = measured.figures(
            arrays, cfg.split, cfg.batch_size or data.batch_size, f"{kind} weights"
        )
        figures = summary(values[kind])
        figures["examples_per_s"] = round(len(arrays[0]) / (time.monotonic() - start), 1)
        report["weights"][kind] = figures
        print(f"  {kind:<4} {_told(figures)} {report['unit']}", flush=True)
    return values


def _told(figures: dict[str, Any]) -> str:
    error = figures["standard_error"]
    if not figures["non_finite"]:
        return f"{figures['mean']:.4f}" + (f" +- {error:.4f}" if error is not None else "")
    named = ", ".join(map(str, figures["non_finite_at"]))
    return (
        f"not finite: {figures['non_finite']} of {figures['n']} examples have no finite likelihood ({named}); "
        f"the mean of the others is {figures['finite_mean']}"
    )


def _write_csv(path: Path, values: dict[str, Tensor], y: Tensor | None) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *(["label"] if y is not None else []), *values])
        for i, row in enumerate(zip(*(v.tolist() for v in values.values()), strict=True)):
            writer.writerow([i, *([] if y is None else [int(y[i])]), *row])


def _detect(
    measurement: Measurement,
    data: ArrayData,
    arrays: Arrays,
    inside: Tensor,
    pair: tuple[list[str], list[str]],
    folder: Path,
) -> dict[str, Any]:
    """How well scores tell the other data from the data that was trained on."""
    cfg = measurement.cfg
    other_data, other = measurement.load(pair[1], cfg.split)
    _, training = measurement.load(pair[0], "train")
    batch_size = cfg.batch_size or data.batch_size
    x, y = training
    typical = measurement.figures(
        (x[:TYPICAL], None if y is None else y[:TYPICAL]), "train", batch_size, "training"
    )
    outside = measurement.figures(other, cfg.split, batch_size, str(other_data.name))
    pngs = png_bits(arrays[0]), png_bits(other[0])
    level = float(typical.mean())
    report = ood_report(inside, outside, *pngs, typical=level)
    names = str(data.name), str(other_data.name)
    mine, others = (ood_scores(b, p, level) for b, p in zip((inside, outside), pngs, strict=True))
    save_picture(ood_picture(mine, others, names, report), folder / f"ood-{other_data.name}.png")
    print(f"{names[0]} against {names[1]}, AUROC of scores that should be higher for {names[1]}:")
    for score, auroc in report["auroc"].items():
        print(f"  {score:<12} {auroc:.3f}")
    report["verdict"] = verdict(report, names[0], names[1])
    print(report["verdict"])
    return report | {"datasets": list(names)}


def _diagnose(measurement: Measurement, arrays: Arrays, folder: Path) -> dict[str, Any]:
    flow, n = measurement.flow, measurement.cfg.diagnosed
    x, y = arrays[0][:n], arrays[1][:n] if flow.classes and arrays[1] is not None else None
    report = diagnose(flow, x, y, seed=measurement.seed)
    save_picture(diagnostics_picture(report), folder / "diagnostics.png")
    report["findings"] = findings(report)
    print(f"diagnostics on {len(x):,} examples: " + ("nothing looks wrong" if not report["findings"] else ""))
    for line in report["findings"]:
        print(f"  {line}")
    return report


def _compare_in_the_plane(
    measurement: Measurement, data: ArrayData, arrays: Arrays, folder: Path, report: dict[str, Any]
) -> dict[str, Any]:
    data.setup("fit")
    others = baselines(data.splits["train"][0], arrays[0])
    picture = plane_picture(measurement.flow, arrays[0], generator("cpu", "samples", measurement.seed))
    save_picture(picture, folder / "plane.png")
    figures = {"flow": report["weights"][_chosen(measurement)]["mean"]} | {
        k: v["nll"] for k, v in others.items()
    }
    print("negative log-likelihood of held-out points, nats:")
    for name, value in figures.items():
        print(f"  {name:<8} {value:.4f}")
    best = min(others, key=lambda name: others[name]["nll"])
    if (gap := figures["flow"] - figures[best]) > WORSE:
        print(f"  the {best} is better by {gap:.2f} nats: raise trainer.max_steps, model.layers or model.hidden")
    return others
