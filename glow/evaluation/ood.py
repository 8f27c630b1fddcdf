"""Detection of other data: scores of single images, and how well they separate another dataset from the flow's own."""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from glow.errors import UsageError
from glow.evaluation.bits import mean_and_error
from glow.evaluation.pictures import figure_to_tensor

SCORES = {
    "likelihood": "the likelihood",
    "typicality": "the distance from the training images' likelihood",
    "complexity": "the likelihood corrected by the size as a PNG",
    "png": "the size as a PNG alone, without the flow,",
}
"""The scores of ``ood_scores`` and their names in a sentence."""


def png_bits(images: Tensor) -> Tensor:
    """Bits per dimension of images as PNG files of the highest compression.

    Only the compressed pixels count, the data of the IDAT chunks: the other 57 bytes or more of a file would dominate
    those of small images. (Serrà et al. 2020 take the length of the whole compressed string.)

    Args:
        images: uint8 (N, C, H, W), grey (C = 1) or colour (C = 3).

    Returns:
        (N,), bits per dimension, float64.

    Raises:
        UsageError: images are of another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(
            "images must be uint8 of shape (N, 1, H, W) or (N, 3, H, W) to be written as PNG, "
            f"got {images.dtype} of shape {tuple(images.shape)}"
        )
    sizes = [_idat_size(png_file(image)) for image in images]
    return 8 * torch.tensor(sizes, dtype=torch.float64) / math.prod(images.shape[1:])


def png_file(image: Tensor) -> bytes:
    """An image, uint8 (1, H, W) or (3, H, W), as a PNG file of the highest compression."""
    file = io.BytesIO()
    pixels = image.permute(1, 2, 0).squeeze(-1).cpu().contiguous().numpy()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def ood_scores(bpd: Tensor, png: Tensor, typical: float) -> dict[str, Tensor]:
    """Four scores of every image; a higher score says that the image is more likely from another distribution.

    ``likelihood`` is the bits/dim themselves. ``typicality`` is their distance from the typical ones, the test of
    Nalisnick et al. 2019 (arXiv 1906.02994) for a single image. ``complexity`` is S(x) = -log p(x) - L(x) of Serrà
    et al. 2020 (arXiv 1909.11480), with the PNG for L. ``png`` is -L(x), which needs no flow: the baseline of the
    others.

    Args:
        bpd: (N,), bits/dim under the flow.
        png: (N,), bits/dim as PNG.
        typical: the mean bits/dim of training images, or of validation images as an estimate of it.

    Returns:
        (N,) for each score, bits/dim, float64 on the CPU.

    Raises:
        UsageError: the shapes differ, or typical is not finite.
    """
    if bpd.ndim != 1 or bpd.shape != png.shape:
        raise UsageError(
            f"bpd and png must have the same shape (N,), got {tuple(bpd.shape)} and {tuple(png.shape)}"
        )
    if not math.isfinite(typical):
        raise UsageError(f"typical must be a finite number of bits/dim, got {typical}")
    bpd, png = bpd.detach().cpu().double(), png.cpu().double()
    return {"likelihood": bpd, "typicality": (bpd - typical).abs(), "complexity": bpd - png, "png": -png}


def ood_report(
    inside: Tensor, other: Tensor, inside_png: Tensor, other_png: Tensor, typical: float
) -> dict[str, Any]:
    """How well each score separates two sets of images.

    AUROC is the share of pairs in which the image of the other set has the higher score, ties counting half; 0.5 is
    chance, and below it the score points the wrong way. An image without finite bits/dim gets the highest score where
    the flow is used; none is left out.

    Args:
        inside: bits/dim (N,) of held-out images of the dataset that the flow was trained on.
        other: bits/dim (M,) of images of another dataset.
        inside_png: (N,), bits/dim as PNG.
        other_png: (M,), bits/dim as PNG.
        typical: see ``ood_scores``.

    Returns:
        Plain numbers for JSON: ``auroc``, of every score; ``typical``; and for each set, ``inside`` and ``other``, the
        ``mean_and_error`` (mean, standard error, n, non_finite ...) of its ``bpd`` and of its ``png``.

    Raises:
        UsageError: a set is empty, or as ``ood_scores``.
    """
    sets = {
        "inside": {"bpd": mean_and_error(inside), "png": mean_and_error(inside_png)},
        "other": {"bpd": mean_and_error(other), "png": mean_and_error(other_png)},
    }
    negative, positive = ood_scores(inside, inside_png, typical), ood_scores(other, other_png, typical)
    labels = np.repeat([0, 1], [len(inside), len(other)])
    auroc = {
        score: float(roc_auc_score(labels, torch.cat(_ranked(negative[score], positive[score])).numpy()))
        for score in SCORES
    }
    return {"auroc": auroc, "typical": float(typical), **sets}


def verdict(report: Mapping[str, Any], inside_name: str, other_name: str) -> str:
    """What a report of ``ood_report`` says, in one sentence.

    A flow that gives another dataset the higher likelihood is no mistake of the program: Nalisnick et al. 2019 (arXiv
    1810.09136) found it for CIFAR-10 and SVHN, and Fashion-MNIST and MNIST among others.
    """
    auroc = report["auroc"]
    likelihood = auroc["likelihood"]
    if likelihood < 0.5:
        message = (
            f"The flow gives {other_name} the higher likelihood although it was trained on {inside_name} "
            f"(AUROC {likelihood:.3f}, below 0.5: the surprise that Nalisnick et al. published in 2019)"
        )
    elif likelihood > 0.5:
        message = (
            f"The flow gives {inside_name}, which it was trained on, a higher likelihood than {other_name} "
            f"(AUROC {likelihood:.3f})"
        )
    else:
        message = f"The likelihood does not tell {other_name} from {inside_name} (AUROC 0.5)"
    best = max(auroc, key=auroc.__getitem__)
    if auroc[best] <= 0.5:
        message += "; no score tells the two apart in the right direction"
    else:
        against = "" if best == "png" else f" against {auroc['png']:.3f} of the size as a PNG alone"
        message += f"; {SCORES[best]} separates the two best (AUROC {auroc[best]:.3f}{against})"
    lost = report["inside"]["bpd"]["non_finite"] + report["other"]["bpd"]["non_finite"]
    if lost:
        images = "1 image counts" if lost == 1 else f"{lost} images count"
        message += f"; {images} as most out of distribution for lack of a finite likelihood"
    return message + "."


def ood_picture(
    inside: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    names: tuple[str, str],
    report: Mapping[str, Any],
) -> Tensor:
    """A histogram of each score for both sets, side by side.

    Args:
        inside: the scores of ``ood_scores`` of the flow's own dataset.
        other: those of the other dataset.
        names: the names of both.
        report: of ``ood_report``, for the titles.

    Returns:
        uint8 (3, height, width).
    """
    figure = Figure(figsize=(4 * len(inside), 4), dpi=80, layout="constrained")
    for axes, score in zip(figure.subplots(1, len(inside), squeeze=False)[0], inside, strict=True):
        values = [v.numpy() for v in _ranked(inside[score], other[score])]
        # The outermost bars take half a percent at either end: one extreme image must not squeeze all others into a bar.
        low, high = np.quantile(np.concatenate(values), (0.005, 0.995))
        bins = np.linspace(low, high, 51) if low < high else np.linspace(low - 0.5, high + 0.5, 51)
        for v, name, colour in zip(values, names, ("tab:blue", "tab:orange"), strict=True):
            axes.hist(v.clip(low, high), bins, density=True, alpha=0.6, color=colour, label=name)
        axes.set(title=f"{score}: AUROC {report['auroc'][score]:.3f}", xlabel="bits/dim", yticks=[])
        axes.legend(loc="upper right")  # "best" takes long to find
    return figure_to_tensor(figure)


def _ranked(inside: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of both sets, those that are not finite replaced by one that is higher than all others."""
    both = torch.cat([inside, other]).double()
    finite = both[both.isfinite()]
    largest = float(finite.max()) if len(finite) else 0.0
    # Higher by one, or by what still makes a difference in float64 where the highest is huge.
    both = both.masked_fill(~both.isfinite(), largest + max(1.0, 1e-9 * abs(largest)))
    return both[: len(inside)], both[len(inside) :]


def _idat_size(png: bytes) -> int:
    """Bytes of data in the IDAT chunks. A chunk has four bytes of length, four of type, the data, four of checksum."""
    size, start = 0, 8  # after the signature
    while start < len(png):
        length = int.from_bytes(png[start : start + 4], "big")
        size += length * (png[start + 4 : start + 8] == b"IDAT")
        start += length + 12
    return size
