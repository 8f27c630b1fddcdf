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

from glow.checkpoint import SavedModel
from glow.commands.inputs import SPLITS, dataset_config, load_split, make_folder, open_saved, other_config
from glow.data import ArrayData, Toy
from glow.data.base import Arrays
from glow.data.sampler import EpochBatches
from glow.distributions.base import Distribution
from glow.errors import UsageError, check_bool, check_choice, check_positive
from glow.evaluation.bits import BOUNDS, UNITS, bits_per_dim, evaluate_log_probs, summary
from glow.evaluation.diagnostics import diagnose
from glow.evaluation.diagnostics_picture import diagnostics_picture
from glow.evaluation.findings import findings
from glow.evaluation.ood import ood_picture, ood_report, ood_scores, png_bits, verdict
from glow.evaluation.pictures import save_picture
from glow.evaluation.plane import baselines, plane_picture
from glow.flows.flow import Flow
from glow.seeds import generator

TYPICAL = 2000
"""Training images whose mean bits/dim says what is typical."""
FEWEST = 20
"""Points without which there is no picture of the plane."""
WORSE = 0.05
"""By so many nats a flow of points may be worse than a baseline without a word."""


@dataclass
class Measurement:
    """What is to be measured, and how."""

    cfg: DictConfig
    saved: SavedModel
    flow: Distribution
    seed: int

    def load(self, config: dict[str, Any], split: str) -> tuple[ArrayData, Arrays]:
        """A split of the data, cut at ``limit``."""
        data, (x, y) = load_split(config, split, self.flow, self.saved.seed)
        limit = self.cfg.limit
        return data, (x[:limit], None if y is None else y[:limit])

    def figures(self, flow: Distribution, arrays: Arrays, split: str, batch_size: int, what: str) -> Tensor:
        """Bits/dim or nats of every example (N,), in the batches of the training's own test."""
        x, y = arrays
        if flow.classes and y is None:
            raise UsageError("the model is class-conditional and needs labels, which this data has not")
        batches = (
            tuple(t[i].to(flow.device) for t in (x, y) if t is not None)
            for i in EpochBatches(len(x), batch_size, shuffle=False)
        )
        with tqdm(total=len(x), desc=what, delay=2, disable=not sys.stderr.isatty()) as bar:
            log_probs = evaluate_log_probs(
                flow, batches, split=split, seed=self.seed, draws=self.cfg.draws, bound=self.cfg.bound,
                progress=lambda done: bar.update(done - bar.n),
            )  # fmt: skip
        return bits_per_dim(log_probs, flow.event_shape) if flow.dequantize else -log_probs


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Measure as configured; everything goes to the run's ``evaluation/DATASET-SPLIT``.

    Args:
        cfg: the composed ``conf/evaluate.yaml``.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        UsageError: a setting that cannot work.
    """
    if cfg.split is not None:
        check_choice("split", cfg.split, SPLITS)
    check_choice("bound", cfg.bound, BOUNDS)
    check_bool("diagnostics", cfg.diagnostics)
    for key in ("limit", "batch_size", "draws", "diagnosed"):
        if cfg[key] is not None or key in ("draws", "diagnosed"):
            check_positive(key, cfg[key], integer=True)
    if cfg.seed is not None:
        check_positive("seed", cfg.seed, integer=True, zero=True)
    saved, device = open_saved(cfg)
    seed = saved.seed if cfg.seed is None else cfg.seed
    flow = saved.flow(cfg.weights).to(device)
    measurement = Measurement(cfg, saved, flow, seed)
    config, other_config = _datasets(cfg, saved, flow)
    split = cfg.split or _default_split(config, saved)
    data, arrays = measurement.load(config, split)
    other = training = None
    if other_config is not None:  # now, before there is something to lose
        other = measurement.load(other_config, split)
        training = measurement.load(config, "train")[1]
    name = f"{data.name}-{split}" + (f"-first{cfg.limit}" if cfg.limit else "")
    folder = make_folder(Path(cfg.out) if cfg.out else saved.folder / "evaluation" / name)
    batch_size = cfg.batch_size or data.batch_size
    report: dict[str, Any] = {
        "ckpt": str(saved.path), "steps": saved.steps, "dataset": data.name, "dataset_config": config,
        "split": split, "limit": cfg.limit, "unit": UNITS["bpd" if flow.dequantize else "nll"],
        "dimensions": math.prod(flow.event_shape), "seed": seed, "draws": cfg.draws, "bound": cfg.bound,
        "batch_size": batch_size, "device": str(device), "dtype": str(flow.dtype).removeprefix("torch."),
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip
    files = ["evaluation.json", "per_image.csv"]
    values = _measure(measurement, data, arrays, split, batch_size, report)
    _write_csv(folder / "per_image.csv", values, arrays[1])
    _write(report, folder)
    if other is not None and training is not None:
        inside = values[_chosen(measurement)]
        report["ood"] = _detect(
            measurement, (data, arrays, inside), training, other, split, batch_size, folder
        )
        files.append(f"ood-{other[0].name}.png")
        _write(report, folder)
    if cfg.diagnostics:
        if not isinstance(flow, Flow):
            print("no diagnostics of the latents: this model has none that are exact")
        elif flow.base.is_normal:
            report["diagnostics"] = _diagnose(measurement, flow, arrays, folder)
            files.append("diagnostics.png")
            _write(report, folder)
        else:
            print("no diagnostics of the latents: they are made for a standard normal base")
        if flow.event_shape == (2,) and len(arrays[0]) >= FEWEST:
            report["baselines"] = _compare_in_the_plane(measurement, flow, data, arrays, folder, report)
            files.append("plane.png")
            _write(report, folder)
    print(f"in {folder}: {', '.join(files)}")
    return report


def _write(report: dict[str, Any], folder: Path) -> None:
    (folder / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n")


def _datasets(
    cfg: DictConfig, saved: SavedModel, flow: Distribution
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The configurations of the data, and of the other data that ``ood`` names.

    ``dataset.KEY=`` of the command line is then about the other data, and about both when both are torchvision's.
    """
    overrides = list(cfg.dataset)
    if cfg.ood is None:
        return dataset_config(overrides, saved), None
    names = str(cfg.ood).split(":")
    if len(names) > 2 or not all(names):
        raise UsageError(f"ood={cfg.ood} must be IN_DISTRIBUTION:OTHER, two datasets, or the other alone")
    if any(o.startswith("dataset=") for o in overrides):
        raise UsageError("ood names the datasets: leave out dataset=")
    if flow.dequantize is None:
        what = "points" if flow.grey_levels is None else "binary images"
        raise UsageError(f"ood needs a flow of grey images, and this model is of {what}")
    if flow.classes:
        raise UsageError("ood needs a model without classes: the labels of other data mean other things")
    trained = saved.dataset["name"] if saved.dataset else names[0]
    if len(names) == 2 and names[0] != trained:
        raise UsageError(f"ood={cfg.ood}: this model was trained on {trained}: set ood={trained}:{names[0]}")
    other = other_config(names[-1], overrides, saved)
    named = [f"dataset={names[0]}"] if len(names) == 2 else []
    both = saved.dataset is None or ("kind" in saved.dataset and "kind" in other)
    return dataset_config([*named, *(overrides if both else [])], saved), other


def _default_split(config: dict[str, Any], saved: SavedModel) -> str:
    """``test``; of a folder that was not trained on and has no ``test``, all pictures."""
    known = saved.dataset is not None and saved.dataset.get("root") == config.get("root")
    return (
        "all"
        if "image_size" in config and not known and not Path(config["root"], "test").is_dir()
        else "test"
    )


def _chosen(measurement: Measurement) -> str:
    return measurement.cfg.weights or measurement.saved.best


def _measure(
    measurement: Measurement,
    data: ArrayData,
    arrays: Arrays,
    split: str,
    batch_size: int,
    report: dict[str, Any],
) -> dict[str, Tensor]:
    """The figures of the asked weights, or of both kinds."""
    saved, n = measurement.saved, len(arrays[0])
    kinds = [measurement.cfg.weights] if measurement.cfg.weights else sorted(saved.weights)
    values, report["weights"] = {}, {}
    print(f"{data.name}, {split} split, {n:,} examples, noise seed {measurement.seed}", flush=True)
    for kind in kinds:
        start = time.monotonic()
        flow = (
            measurement.flow if kind == _chosen(measurement) else saved.flow(kind).to(measurement.flow.device)
        )
        values[kind] = measurement.figures(flow, arrays, split, batch_size, f"{kind} weights")
        report["weights"][kind] = summary(values[kind])
        report["weights"][kind]["examples_per_s"] = round(n / (time.monotonic() - start), 1)
        print(f"  {kind:<4} {_told(report['weights'][kind], report['unit'])}", flush=True)
    return values


def _told(figures: dict[str, Any], unit: str) -> str:
    error = figures["standard_error"]
    if not figures["non_finite"]:
        return f"{figures['mean']:.4f}" + (f" +- {error:.4f}" if error is not None else "") + f" {unit}"
    named = ", ".join(map(str, figures["non_finite_at"]))
    return (
        f"not finite: {figures['non_finite']} of {figures['n']} examples have no finite likelihood ({named}); "
        f"the mean of the others is {figures['finite_mean']} {unit}"
    )


def _write_csv(path: Path, values: dict[str, Tensor], y: Tensor | None) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *(["label"] if y is not None else []), *values])
        for i, row in enumerate(zip(*(v.tolist() for v in values.values()), strict=True)):
            writer.writerow([i, *([] if y is None else [int(y[i])]), *row])


def _detect(
    measurement: Measurement,
    own: tuple[ArrayData, Arrays, Tensor],
    training: Arrays,
    other: tuple[ArrayData, Arrays],
    split: str,
    batch_size: int,
    folder: Path,
) -> dict[str, Any]:
    """How well scores tell the other data from the data that was trained on."""
    flow, (data, arrays, inside) = measurement.flow, own
    names = str(data.name), str(other[0].name)
    x, _ = training
    typical = summary(measurement.figures(flow, (x[:TYPICAL], None), "train", batch_size, "training"))
    if typical["finite_mean"] is None:
        raise UsageError("no training image has a finite likelihood: there is nothing to compare with")
    if typical["non_finite"]:
        print(f"warning: {typical['non_finite']} of {typical['n']} training images have no finite likelihood")
    level = typical["finite_mean"]
    outside = measurement.figures(flow, (other[1][0], None), split, batch_size, names[1])
    pngs = png_bits(arrays[0]), png_bits(other[1][0])
    report = ood_report(inside, outside, *pngs, typical=level)
    mine, others = (ood_scores(b, p, level) for b, p in zip((inside, outside), pngs, strict=True))
    save_picture(ood_picture(mine, others, names, report), folder / f"ood-{names[1]}.png")
    print(f"{names[0]} against {names[1]}, AUROC of scores that should be higher for {names[1]}:")
    for score, auroc in report["auroc"].items():
        print(f"  {score:<12} {auroc:.3f}")
    report["verdict"] = verdict(report, names[0], names[1])
    print(report["verdict"])
    return report | {"datasets": list(names), "typical_of": typical}


def _diagnose(measurement: Measurement, flow: Flow, arrays: Arrays, folder: Path) -> dict[str, Any]:
    n = measurement.cfg.diagnosed
    x, y = arrays[0][:n], arrays[1][:n] if flow.classes and arrays[1] is not None else None
    report = diagnose(flow, x, y, seed=measurement.seed)
    save_picture(diagnostics_picture(report), folder / "diagnostics.png")
    report["findings"] = findings(report)
    print(f"diagnostics on {len(x):,} examples: " + ("nothing looks wrong" if not report["findings"] else ""))
    for line in report["findings"]:
        print(f"  {line}")
    return report


def _compare_in_the_plane(
    measurement: Measurement,
    flow: Distribution,
    data: ArrayData,
    arrays: Arrays,
    folder: Path,
    report: dict[str, Any],
) -> dict[str, Any]:
    data.setup("fit")
    others = baselines(data.splits["train"][0], arrays[0])
    if isinstance(data, Toy) and (truth := data.true_nll(arrays[0])) is not None:
        report["true_nll"] = truth
    picture = plane_picture(flow, arrays[0], generator("cpu", "samples", measurement.seed))
    save_picture(picture, folder / "plane.png")
    flow_nll = report["weights"][_chosen(measurement)]["mean"]
    print("negative log-likelihood of held-out points, nats:")
    print(f"  flow     {'not finite' if flow_nll is None else f'{flow_nll:.4f}'}")
    for name, figures in others.items():
        print(f"  {name:<8} {figures['nll']:.4f}")
    if "true_nll" in report:
        print(f"  {'truth':<8} {report['true_nll']:.4f}")
    best = min(others, key=lambda name: others[name]["nll"])
    if flow_nll is not None and (gap := flow_nll - others[best]["nll"]) > WORSE:
        print(
            f"  the {best} is better by {gap:.2f} nats: raise trainer.max_steps, model.layers or model.hidden"
        )
    return others
