"""Training with Lightning: a module per objective, and callbacks in any order."""

from glow.training.ema import EMA
from glow.training.initialize import Initialize
from glow.training.maximum_likelihood import MaximumLikelihood
from glow.training.module import DensityModule
from glow.training.muon import Muon
from glow.training.pictures import Pictures
from glow.training.progress import Throughput, progress
from glow.training.reverse_kl import BothKL, ReverseKL
from glow.training.sample_quality import SampleQuality
from glow.training.schedules import warmup
from glow.training.smallest_scale import SmallestScale
from glow.training.time_estimate import TimeEstimate

__all__ = [
    "EMA",
    "BothKL",
    "DensityModule",
    "Initialize",
    "MaximumLikelihood",
    "Muon",
    "Pictures",
    "ReverseKL",
    "SampleQuality",
    "SmallestScale",
    "Throughput",
    "TimeEstimate",
    "progress",
    "warmup",
]
