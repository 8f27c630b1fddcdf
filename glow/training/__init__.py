"""Training with Lightning: the module and its callbacks."""

from glow.training.ema import EMA
from glow.training.initialize import Initialize
from glow.training.module import FlowModule
from glow.training.pictures import Pictures
from glow.training.progress import Throughput, progress
from glow.training.time_estimate import TimeEstimate

__all__ = [
    "EMA",
    "FlowModule",
    "Initialize",
    "Pictures",
    "Throughput",
    "TimeEstimate",
    "progress",
]
