"""``python evaluate.py quality=true``: samples beside images that the flow has not seen, by features of a network."""

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from glow.commands.samples import draw, guidances_for, temperatures
from glow.commands.session import Session
from glow.errors import UsageError, check_positive

if TYPE_CHECKING:
    from glow.evaluation.features import FeatureNetwork

MOST = 10_000
"""Samples by default, if the split has as many."""
SHOWN = 10
"""Samples that are shown beside their nearest training images."""


class Plan(NamedTuple):
    """What to measure, see ``plan_quality``."""

    n: int
    y: Tensor | None
    temperatures: list[float]
    guidances: list[float]
    network: "FeatureNetwork"


def plan_quality(session: Session) -> Plan | None:
    """The settings of ``quality=true``, checked before anything is measured, with the network; None without it.

    Raises:
        UsageError: a setting that cannot work, or there is no network for this data.
    """
    cfg, flow = session.cfg, session.density
    if not cfg.quality:
        return None
    from glow.evaluation.features import feature_network  # slow to import
    from glow.evaluation.quality import check_sizes

    if flow.grey_levels is None or len(flow.event_shape) != 3:
        raise UsageError("quality=true needs a model of images")
    if session.data.split not in ("val", "test"):
        raise UsageError(
            f"quality=true compares samples with images that were not trained on: take split=val or test, not {session.data.split}"
        )
    if cfg.samples is not None:
        check_positive("samples", cfg.samples, integer=True)
    n = cfg.samples or min(MOST, len(session.data.x))
    check_sizes(len(session.data.x), n)
    y = torch.arange(n) % flow.classes if flow.classes else None
    heats, guidances = temperatures(session), guidances_for(session, y)
    data = str(session.sources[0].config.get("name"))
    return Plan(n, y, heats, guidances, feature_network(cfg.features, data, flow.event_shape[0], flow.device))


def measure_quality(session: Session, report: dict[str, Any], plan: Plan) -> None:
    """FID, KID, precision, recall and agreement of samples at every temperature and guidance, and of training images."""
    from glow.evaluation.features import agreement, features_of  # slow to import
    from glow.evaluation.quality import quality

    data, (n, y, heats, guidances, network) = session.data, plan

    def measure(images: Tensor, what: str) -> tuple[Tensor, Tensor | None]:
        return features_of(network, images, session.levels, what)

    real, logits = measure(data.x, "features of the split")
    training, _ = measure(session.training.x, "features of the training images")
    some = torch.randperm(len(training), generator=session.generator("floor"))[
        :n
    ]  # files may lie class by class
    floor = quality(real, training[some])
    found: dict[str, Any] = {
        "features": network.name, "n": n, "split_n": len(data.x), "seed": session.seed, "training": floor,
        "accuracy": agreement(logits, data.y), "samples": [],
    }  # fmt: skip
    report["quality"] = found
    print(f"quality of {n:,} samples by the features of {network.name}:")
    _print("training images", floor | {"agreement": found["accuracy"]})
    for temperature in heats:
        for guidance in guidances:
            start = time.monotonic()
            images = draw(session, n, y, temperature, guidance).images
            drawn, logits = measure(images, "features of samples")
            row = {
                "temperature": temperature, "guidance": guidance, **quality(real, drawn),
                "agreement": agreement(logits, y), "seconds": round(time.monotonic() - start, 1),
            }  # fmt: skip
            found["samples"].append(row)
            _print(f"T = {temperature:g}, guidance {guidance:g}", row)
            session.write_report(report, "evaluation.json")  # what there is
            if len(found["samples"]) == 1:
                _show_nearest(session, images[:SHOWN], drawn[:SHOWN], training)
    if len(found["samples"]) > 1:
        from glow.evaluation.quality_picture import quality_picture  # slow to import

        session.save(quality_picture(found), "quality")


def _show_nearest(session: Session, samples: Tensor, features: Tensor, of_training: Tensor) -> None:
    """Samples above their nearest training images, by pixels and by features (M, D) and (N, D)."""
    from glow.evaluation.quality import nearest  # slow to import

    training = session.training.x
    by_pixels = nearest(samples.flatten(1), training.flatten(1))
    by_features = nearest(features, of_training)
    session.draw_grid(
        torch.cat([samples, training[by_pixels], training[by_features]]), "nearest", len(samples),
        rows=["samples", "nearest by pixels", "nearest by features"],
    )  # fmt: skip


def _print(what: str, row: dict[str, Any]) -> None:
    agreement = "" if row.get("agreement") is None else f"  labels {row['agreement']:.1%}"
    print(
        f"  {what:<22} FID {row['fid']:8.3f}  KID {row['kid']:.5f}  precision {row['precision']:.3f}  recall {row['recall']:.3f}{agreement}",
        flush=True,
    )
