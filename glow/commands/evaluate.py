"""``python evaluate.py``: bits/dim, diagnostics and the detection of other data."""

import csv
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from glow.commands.loading import Loaded
from glow.commands.posterior import check_c2st, measure_c2st
from glow.commands.quality import measure_quality, plan_quality
from glow.commands.session import Session
from glow.distributions.base import Distribution
from glow.errors import UsageError, check_bool, check_choice, check_positive
from glow.evaluation.bits import BOUNDS, UNITS, evaluate_log_probs, in_unit, mean_and_error
from glow.flows.flow import Flow

TYPICAL_IMAGES = 2000
"""Training images whose mean bits/dim says what is typical."""
MIN_POINTS = 20
"""Fewer points than this are not compared with baselines in the plane."""
BASELINE_MARGIN = 0.05
"""Warn when the flow trails the best baseline by more than this (nats)."""


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Measure as configured; everything goes to the run's ``evaluation/DATASET-SPLIT``.

    Args:
        cfg: the composed ``conf/evaluate.yaml``.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        UsageError: a setting that cannot work.
    """
    check_choice("bound", cfg.bound, BOUNDS)
    check_bool("diagnostics", cfg.diagnostics)
    check_bool("quality", cfg.quality)
    for key in ("limit", "batch_size", "draws", "diagnosed"):
        if cfg[key] is not None or key in ("draws", "diagnosed"):
            check_positive(key, cfg[key], integer=True)
    if cfg.seed is not None:
        check_positive("seed", cfg.seed, integer=True, zero=True)
    session = Session.open(cfg)
    if cfg.ood is not None:
        _check_ood(session.density)
    data, (source, other) = session.data, session.sources
    # Now, before there is something to lose.
    plan = plan_quality(session)
    check_c2st(session)
    others = None if other is None else session.load(other, data.split).first(cfg.limit)
    limited = f"-first{cfg.limit}" if cfg.limit else ""
    session.make_folder(f"evaluation/{data.label}-{data.split}{limited}")
    flow = session.density
    report: dict[str, Any] = {
        "ckpt": str(session.saved.path), "steps": session.saved.steps, "dataset": data.label,
        "dataset_config": source.config, "split": data.split, "limit": cfg.limit,
        "unit": UNITS["bpd" if flow.in_bits else "nll"], "dimensions": math.prod(flow.event_shape),
        "seed": session.seed, "draws": cfg.draws, "bound": cfg.bound, "batch_size": _batch_size(session),
        "device": str(flow.device), "dtype": str(flow.dtype).removeprefix("torch."),
        "command": " ".join(["python", *sys.argv]),
    }  # fmt: skip
    values = measure_bits(session, report)
    measurements: list[Callable[[Session, dict[str, Any]], None]] = [measure_latents, measure_baselines]
    if plan is not None:
        measurements.append(partial(measure_quality, plan=plan))
    if cfg.c2st:
        measurements.append(measure_c2st)
    if others is not None:
        measurements.insert(0, partial(measure_ood, inside=values[session.weights], others=others))
    for measure in measurements:
        session.write_report(report, "evaluation.json")  # what there is, should the next one fail
        measure(session, report)
    session.write_report(report, "evaluation.json")
    print(f"in {session.folder}: {', '.join(['evaluation.json', *session.files])}")
    return report


def _check_ood(flow: Distribution) -> None:
    if not flow.in_bits or flow.kind != "images":
        kind = "binary images" if flow.kind == "images" else flow.kind
        raise UsageError(f"ood needs a flow of grey images, and this model is of {kind}")


def _batch_size(session: Session) -> int:
    return int(session.cfg.batch_size or session.data.module.batch_size)


def losses(session: Session, flow: Distribution, data: Loaded, what: str, draws: int | None = None) -> Tensor:
    """Bits/dim or nats of every example (N,), in the batches of the training's own test; ``draws`` replaces the setting."""
    from glow.data.sampler import EpochBatches  # slow to import: glow.data needs Lightning

    batches = (
        tuple(t[i].to(flow.device) for t in (data.x, data.y) if t is not None)
        for i in EpochBatches(len(data.x), _batch_size(session), shuffle=False)
    )
    with tqdm(total=len(data.x), desc=what, delay=2, disable=not sys.stderr.isatty()) as bar:
        log_probs = evaluate_log_probs(
            flow, batches, split=data.split, seed=session.seed, draws=draws or session.cfg.draws, bound=session.cfg.bound,
            progress=lambda done: bar.update(done - bar.n), log_prob=session.replayed(flow).log_prob,
        )  # fmt: skip
    return in_unit(-log_probs, flow)


def measure_bits(session: Session, report: dict[str, Any]) -> dict[str, Tensor]:
    """The figures of every example under the asked weights, or both kinds; their means go into the report."""
    cfg, saved, data = session.cfg, session.saved, session.data
    values, report["weights"] = {}, {}
    print(
        f"{data.label}, {data.split} split, {len(data.x):,} examples, noise seed {session.seed}", flush=True
    )
    for kind in [cfg.weights] if cfg.weights else sorted(saved.weights):
        start = time.monotonic()
        flow = session.density if kind == session.weights else session.made(kind)
        values[kind] = losses(session, flow, data, f"{kind} weights")
        report["weights"][kind] = mean_and_error(values[kind])
        report["weights"][kind]["examples_per_s"] = round(len(data.x) / (time.monotonic() - start), 1)
        print(f"  {kind:<4} {format_mean(report['weights'][kind], report)}", flush=True)
    if session.density.classes:
        report["labels"] = "given" if data.y is not None else "none"
        print(f"  {labels_note(session.density, data)}")
    if session.density.grey_levels is not None and session.density.noise(1) is None:
        report["exact"] = True
        print("  exact log-probabilities of the integers, no bound")
    with (session.folder / "per_image.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        y = None if data.y is None or data.y.is_floating_point() else data.y  # observations are no labels
        writer.writerow(["index", *(["label"] if y is not None else []), *values])
        for i, row in enumerate(zip(*(v.tolist() for v in values.values()), strict=True)):
            writer.writerow([i, *([] if y is None else [int(y[i])]), *row])
    session.files.append("per_image.csv")
    return values


def labels_note(flow: Distribution, data: Loaded) -> str:
    r"""What labels have to do with the figure of a class-conditional model.

    :math:`p(x) = \sum_y p(y) p(x | y) \ge p(y) p(x | y)`: with equally frequent classes, the mixture that draws labels first
    is at most log(classes) nats worse than the figure given the labels.
    """
    if data.y is None:
        return "without labels, which this data has not"
    nats = math.log(flow.classes)
    more = (
        f"{nats / math.log(2) / math.prod(flow.event_shape):.4f} bits/dim"
        if flow.in_bits
        else f"{nats:.4f} nats"
    )
    return f"given the labels; without them at most {more} more (the mixture of all classes)"


def format_mean(figures: dict[str, Any], report: dict[str, Any]) -> str:
    """A mean with its error, unit, and the bound if it is not that of one draw."""
    error, unit = figures["standard_error"], report["unit"]
    draws = f" (bound={report['bound']} of draws={report['draws']})"
    how = draws if report["draws"] > 1 or report["bound"] != "mean" else ""
    if not figures["non_finite"]:
        return f"{figures['mean']:.4f}" + (f" +- {error:.4f}" if error is not None else "") + f" {unit}{how}"
    indices = ", ".join(map(str, figures["non_finite_at"]))
    return (
        f"not finite: {figures['non_finite']} of {figures['n']} examples have no finite likelihood ({indices}); "
        f"the mean of the others is {figures['finite_mean']} {unit}{how}"
    )


def measure_ood(session: Session, report: dict[str, Any], *, inside: Tensor, others: Loaded) -> None:
    """How well scores tell the other data from the data that was trained on, whose losses ``inside`` holds."""
    from glow.evaluation.ood import ood_picture, ood_report, ood_scores, png_bits, verdict  # slow to import

    flow, names = session.density, (session.data.label, others.label)
    training = session.training.first(TYPICAL_IMAGES)
    if flow.classes:  # the labels of other data mean other things: all without labels
        training, inside = (
            training._replace(y=None),
            losses(session, flow, session.data._replace(y=None), names[0]),
        )
    typical = mean_and_error(losses(session, flow, training, "training"))
    if typical["finite_mean"] is None:
        raise UsageError("no training image has a finite likelihood: there is nothing to compare with")
    if typical["non_finite"]:
        print(f"warning: {typical['non_finite']} of {typical['n']} training images have no finite likelihood")
    level = typical["finite_mean"]
    outside = losses(session, flow, others._replace(y=None), names[1])
    pngs = png_bits(session.data.x), png_bits(others.x)
    found = ood_report(inside, outside, *pngs, typical=level)
    scores = [ood_scores(b, p, level) for b, p in zip((inside, outside), pngs, strict=True)]
    session.save(ood_picture(scores[0], scores[1], names, found), f"ood-{names[1]}")
    print(f"{names[0]} against {names[1]}, AUROC of scores that should be higher for {names[1]}:")
    for score, auroc in found["auroc"].items():
        print(f"  {score:<12} {auroc:.3f}")
    found["verdict"] = verdict(found, *names)
    print(found["verdict"])
    report["ood"] = found | {"datasets": list(names), "typical_of": typical}


def measure_latents(session: Session, report: dict[str, Any]) -> None:
    """Diagnose the latents of a flow with a standard normal base, and say what looks wrong."""
    if not session.cfg.diagnostics:
        return
    flow, n = session.density, session.cfg.diagnosed
    if not isinstance(flow, Flow) or not flow.base.is_normal:
        why = "they are made for a standard normal base" if isinstance(flow, Flow) else "this model has none"
        print(f"no diagnostics of the latents: {why}")
        return
    from glow.evaluation.diagnostics import diagnose  # slow to import
    from glow.evaluation.diagnostics_picture import diagnostics_picture
    from glow.evaluation.findings import findings

    data = session.data.first(n)
    found = diagnose(flow, data.x, data.y if flow.conditional else None, seed=session.seed)
    session.save(diagnostics_picture(found), "diagnostics")
    found["findings"] = findings(found, _training_mean(session))
    report["diagnostics"] = found
    print(f"diagnostics on {len(data.x):,} examples: " + ("" if found["findings"] else "nothing looks wrong"))
    for line in found["findings"]:
        print(f"  {line}")


def _training_mean(session: Session) -> float | None:
    """The mean of as many training examples, by which a run that overfits is known; None for other data.

    Of one draw, as the diagnosis takes it: the bound of many draws would be better by itself.
    """
    if not session.sources[0].own or session.data.split == "train":
        return None
    training = session.training.first(min(session.cfg.diagnosed, TYPICAL_IMAGES))
    return mean_and_error(losses(session, session.density, training, "training", draws=1))["finite_mean"]


def measure_baselines(session: Session, report: dict[str, Any]) -> None:
    """Compare points in the plane with simple densities of the training points, and draw both."""
    flow, data = session.density, session.data
    if hasattr(data.module, "true_nll") and (truth := data.module.true_nll(data.x, data.y)) is not None:
        report["true_nll"] = in_unit(truth, flow)
    few = flow.event_shape != (2,) or len(data.x) < MIN_POINTS
    if not session.cfg.diagnostics or few or flow.observed:
        if "true_nll" in report:
            print(f"entropy of the {flow.kind}: {report['true_nll']:.4f} {report['unit']}")
        return
    from glow.evaluation.plane import baselines, plane_picture  # slow to import

    fitted = baselines(session.training.x, data.x)
    session.save(plane_picture(flow, data.x, session.generator("samples")), "plane")
    flow_nll = report["weights"][session.weights]["mean"]
    print("negative log-likelihood of held-out points, nats:")
    print(f"  flow     {'not finite' if flow_nll is None else f'{flow_nll:.4f}'}")
    for name, baseline in fitted.items():
        print(f"  {name:<8} {baseline['nll']:.4f}")
    if "true_nll" in report:
        print(f"  {'truth':<8} {report['true_nll']:.4f}")
    best = min(fitted, key=lambda name: fitted[name]["nll"])
    if flow_nll is not None and (gap := flow_nll - fitted[best]["nll"]) > BASELINE_MARGIN:
        print(f"  the {best} is better by {gap:.2f} nats: raise fit.max_steps, model.layers or model.hidden")
    report["baselines"] = fitted
