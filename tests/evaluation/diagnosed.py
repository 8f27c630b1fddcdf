"""Small flows, and data, that the tests of diagnoses share."""

from typing import Any

import torch
from torch import Tensor

from glow.bijections import Composition, MultiScale, SplitPrior, Squeeze, TopPrior
from glow.flows import MAF, Flow, Glow
from glow.networks import ZeroConv2d


def shaken(flow: Flow, dtype: torch.dtype = torch.float64) -> Flow:
    """Weights as after some training: none is zero, none of the convolutions orthogonal."""
    source = torch.Generator().manual_seed(1)
    for p in flow.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=source)
    flow.initialized = True
    return flow.to(dtype)


def small_glow(**options: Any) -> Flow:
    torch.manual_seed(0)
    return Glow((1, 8, 8), 17, **{"levels": 2, "depth": 2, "width": 8, **options})


def pictures(n: int = 10) -> Tensor:
    return torch.randint(17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def identity(dim: int = 6) -> Flow:
    return MAF((dim,), layers=2, hidden=4).double()  # as it starts


def two_scales(log_sd: tuple[float, float] = (0.0, 0.0)) -> Flow:
    """Standard normal in both scales, but for the priors' log standard deviations."""
    split, top = SplitPrior(ZeroConv2d(2, 4)), TopPrior(8)
    split.network.bias.data[1::2] = log_sd[0]
    assert top.bias is not None
    top.bias.data[8:] = log_sd[1]
    f = MultiScale((1, 8, 8), [Composition([Squeeze()]), Composition([Squeeze()])], [split], top)
    return Flow(f, (1, 8, 8)).double()


def change(report: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    for p in parents:
        report = report[p]
    report[last] = value
