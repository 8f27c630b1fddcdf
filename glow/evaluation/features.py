"""Features of images, by networks that know the data."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from glow.errors import UsageError
from glow.evaluation.classifier import classifiers, load_classifier
from glow.evaluation.inception import Inception
from glow.evaluation.pictures import to_bytes

Network = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""uint8 (N, C, H, W) of 256 levels -> features (N, D), and logits if it knows the labels."""


class FeatureNetwork(NamedTuple):
    """A network, what it is called beside its figures, and where it is."""

    name: str
    network: Network
    device: torch.device = torch.device("cpu")


def feature_network(
    wanted: str | None, data: str, channels: int, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """The network of that name, or the one that suits the data.

    Args:
        wanted: ``inception``, the name or the file of a classifier; None for Inception where there are colours, else the
            classifier of the data.
        data: name of the data.
        channels: of the images.
        device: where it shall be.

    Raises:
        UsageError: there is none.
    """
    if wanted is None:
        wanted = "inception" if channels == 3 else data
        if wanted != "inception" and wanted not in classifiers():
            raise UsageError(
                f"there is no classifier of {wanted} to measure samples by: train one by scripts/classifier.py and name its "
                "file with features=FILE, or take features=inception"
            )
    network: nn.Module
    if wanted == "inception":
        name, network = "torch-fidelity's Inception", Inception()
    elif channels != 1:
        raise UsageError(f"features={wanted} is of grey images: take features=inception")
    else:
        name, network = f"the classifier of {wanted}", load_classifier(str(wanted))
    return FeatureNetwork(name, network.to(device), torch.device(device))


@torch.no_grad()
def features_of(
    network: FeatureNetwork, images: Tensor, grey_levels: int, what: str, batch: int = 250
) -> tuple[Tensor, Tensor | None]:
    """Features (N, D) and logits of images uint8 (N, C, H, W) of so many grey levels, on the CPU; ``what`` names the bar."""
    features, logits = [], []
    with tqdm(total=len(images), desc=what, delay=2, disable=not sys.stderr.isatty()) as bar:
        for some in images.split(batch):
            f, scores = network.network(to_bytes(some, grey_levels).to(network.device))
            features.append(f.cpu())
            logits += [] if scores is None else [scores.cpu()]
            bar.update(len(some))
    return torch.cat(features), torch.cat(logits) if logits else None


def agreement(logits: Tensor | None, y: Tensor | None) -> float | None:
    """How often the network sees the label (n,) that was asked for; None where one of the two is missing."""
    return None if logits is None or y is None else float((logits.argmax(1) == y).double().mean())
