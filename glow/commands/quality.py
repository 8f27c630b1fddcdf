"""``python evaluate.py quality=true``: samples beside images that the flow has not seen, by features of a network."""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from glow.commands.inputs import as_list
from glow.commands.samples import check_guidance, draw, temperatures
from glow.commands.session import Session
from glow.errors import UsageError, check_positive
from glow.evaluation.pictures import to_bytes

MOST = 10_000
"""Samples by default, if the split has as many."""
SHOWN = 10
"""Samples that are shown beside their nearest training images."""

Network = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""uint8 (N, C, H, W) of 256 levels -> features (N, D), and logits if it knows the labels."""


def measure_quality(session: Session, report: dict[str, Any]) -> None:
    """FID, KID, precision, recall and agreement of samples at every temperature and guidance, and of training images."""
    from glow.evaluation.quality import quality  # slow to import

    cfg, flow, data = session.cfg, session.density, session.data
    if not cfg.quality:
        return
    if flow.grey_levels is None or len(flow.event_shape) != 3:
        raise UsageError("quality=true needs a model of images")
    if cfg.samples is not None:
        check_positive("samples", cfg.samples, integer=True)
    n = cfg.samples or min(MOST, len(data.x))
    y = torch.arange(n) % flow.classes if flow.classes else None
    heats, guidances = temperatures(session, 0.7), as_list("guidance", cfg.guidance)
    for guidance in guidances:
        check_guidance(guidance, y)
    name, network = _network(session)

    def measure(images: Tensor, what: str) -> tuple[Tensor, Tensor | None]:
        return _features(network, images, session.levels, what)

    real, logits = measure(data.x, "features of the split")
    training, _ = measure(session.training.x, "features of the training images")
    floor = quality(real, training[:n])
    found: dict[str, Any] = {
        "features": name, "n": n, "split_n": len(data.x), "seed": session.seed, "training": floor,
        "accuracy": _agreement(logits, data.y), "samples": [],
    }  # fmt: skip
    report["quality"] = found
    print(f"quality of {n:,} samples by the features of {name}:")
    _print("training images", floor | {"agreement": found["accuracy"]})
    for temperature in heats:
        for guidance in guidances:
            start = time.monotonic()
            images = draw(session, n, y, temperature, guidance).images
            drawn, logits = measure(images, "features of samples")
            row = {
                "temperature": temperature, "guidance": guidance, **quality(real, drawn),
                "agreement": _agreement(logits, y), "seconds": round(time.monotonic() - start, 1),
            }  # fmt: skip
            found["samples"].append(row)
            _print(f"T = {temperature:g}, guidance {guidance:g}", row)
            session.write_report(report, "evaluation.json")  # what there is
            if len(found["samples"]) == 1:
                _show_nearest(session, images[:SHOWN], drawn[:SHOWN], training)
    if len(found["samples"]) > 1:
        from glow.evaluation.quality_picture import quality_picture  # slow to import

        session.save(quality_picture(found), "quality")


def _network(session: Session) -> tuple[str, Network]:
    """The network that ``features`` names, or that suits the data."""
    from glow.evaluation.classifier import classifiers, load_classifier
    from glow.evaluation.inception import Inception

    wanted, channels = session.cfg.features, session.density.event_shape[0]
    if wanted is None:
        wanted = "inception" if channels == 3 else str(session.sources[0].config.get("name"))
        if wanted != "inception" and wanted not in classifiers():
            raise UsageError(
                f"there is no classifier of {wanted} to measure samples by: train one by scripts/classifier.py and name its "
                "file with features=FILE, or take features=inception"
            )
    if wanted == "inception":
        return "torch-fidelity's Inception", Inception()
    if channels != 1:
        raise UsageError(f"features={wanted} is of grey images: take features=inception")
    return f"the classifier of {wanted}", load_classifier(str(wanted))


@torch.no_grad()
def _features(
    network: Network, images: Tensor, grey_levels: int, what: str, batch: int = 250
) -> tuple[Tensor, Tensor | None]:
    """Features (N, D) and logits of images uint8 (N, C, H, W) of so many grey levels."""
    features, logits = [], []
    with tqdm(total=len(images), desc=what, delay=2, disable=not sys.stderr.isatty()) as bar:
        for some in images.split(batch):
            f, scores = network(to_bytes(some, grey_levels))
            features.append(f)
            logits += [] if scores is None else [scores]
            bar.update(len(some))
    return torch.cat(features), torch.cat(logits) if logits else None


def _agreement(logits: Tensor | None, y: Tensor | None) -> float | None:
    """How often the network sees the label (n,) that was asked for."""
    return None if logits is None or y is None else float((logits.argmax(1) == y).double().mean())


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
