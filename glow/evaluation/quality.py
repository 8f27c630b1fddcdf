"""How good samples are: their features beside those of images that the flow has not seen."""

import warnings

import torch
from torch import Tensor, nn

from glow.errors import UsageError

NEIGHBOURS = 3
"""k of precision and recall (Kynkäänniemi et al. 2019, section 3)."""
SUBSETS, SUBSET = 100, 1000
"""Subsets that the kernel distance is averaged over, and how large they are."""


def quality(real: Tensor, drawn: Tensor) -> dict[str, float]:
    """Distances between two sets of features, and how much of each set the other covers.

    - ``fid``: the Fréchet distance between normals fitted to both (Heusel et al. 2017, equation 6);
    - ``kid`` and ``kid_sd``: the squared kernel distance, with a cubic kernel, mean and standard deviation over subsets
      (Binkowski et al. 2018, section 4); unbiased, where ``fid`` falls with the number of images;
    - ``precision``: the share of drawn images within the reach of real ones, ``recall``: the share of real images
      within the reach of drawn ones (Kynkäänniemi et al. 2019, equation 2).

    Args:
        real: (N, D), features of images.
        drawn: (M, D), features of samples.

    Raises:
        UsageError: too few, of different lengths, or not finite.

    >>> features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> found = quality(features, features + 1)
    >>> round(found["fid"], 3), found["precision"] < 1
    (4.0, True)
    """
    if real.ndim != 2 or drawn.ndim != 2 or real.shape[1] != drawn.shape[1]:
        raise UsageError(
            f"features must be (N, D) and (M, D), got {tuple(real.shape)} and {tuple(drawn.shape)}"
        )
    check_sizes(len(real), len(drawn))
    if not (real.isfinite().all() and drawn.isfinite().all()):
        raise UsageError("features must be finite")
    kid, kid_sd = kernel_distance(real, drawn)
    return {
        "fid": frechet_distance(real, drawn),
        "kid": kid,
        "kid_sd": kid_sd,
        "precision": coverage(real, drawn),
        "recall": coverage(drawn, real),
    }


def check_sizes(*sizes: int) -> None:
    """Whether figures can be had of sets that large."""
    if min(sizes) <= NEIGHBOURS:
        raise UsageError(
            f"quality needs more than {NEIGHBOURS} images of each kind, got {' and '.join(map(str, sizes))}"
        )


class _Given(nn.Module):
    """Stands where torchmetrics would have a network: the features are there already, of all devices."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """The Fréchet distance between the normals with the moments of both, (N, D) and (M, D)."""
    from torchmetrics.image.fid import FrechetInceptionDistance  # slow to import

    metric = FrechetInceptionDistance(_Given(real.shape[1]), sync_on_compute=False).set_dtype(torch.float64)
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    return float(metric.compute())


def kernel_distance(real: Tensor, drawn: Tensor) -> tuple[float, float]:
    """Mean and standard deviation over subsets that are always the same ones; (N, D) and (M, D)."""
    from torchmetrics.image.kid import KernelInceptionDistance  # slow to import

    size = min(SUBSET, len(real) // 2, len(drawn) // 2)  # subsets differ
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save all extracted features")
        metric = KernelInceptionDistance(
            _Given(real.shape[1]), subsets=SUBSETS, subset_size=size, sync_on_compute=False
        )
    metric.update(real.double(), real=True)
    metric.update(drawn.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        mean, sd = metric.compute()
    return float(mean), float(sd)


def coverage(centres: Tensor, points: Tensor) -> float:
    """The share of ``points`` (M, D) that lie in a ball around one of ``centres`` (N, D), which reaches its k-th neighbour."""
    reach = torch.cat(
        [torch.cdist(some, centres).kthvalue(NEIGHBOURS + 1, dim=1).values for some in centres.split(1000)]
    )
    inside = [(torch.cdist(some, centres) <= reach).any(1) for some in points.split(1000)]
    return float(torch.cat(inside).double().mean())


def nearest(points: Tensor, others: Tensor) -> Tensor:
    """The index of the nearest of ``others`` (N, D), of any type, for each of ``points`` (M, D): int64 (M,)."""
    distances = [torch.cdist(points.float(), some.float()) for some in others.split(10_000)]
    return torch.cat(distances, dim=1).argmin(1)
