"""Training with Lightning: the module and its callbacks."""

from glow.training.checkpoints import BestCheckpoint, LastCheckpoint
from glow.training.ema import EMA
from glow.training.estimate import TimeEstimate
from glow.training.initialize import Initialize
from glow.training.loggers import AppendingCSVLogger
from glow.training.module import FlowModule
from glow.training.pictures import Pictures
from glow.training.progress import Throughput, progress
from glow.training.stopping import StopGracefully

__all__ = [
    "EMA",
    "AppendingCSVLogger",
    "BestCheckpoint",
    "FlowModule",
    "Initialize",
    "LastCheckpoint",
    "Pictures",
    "StopGracefully",
    "Throughput",
    "TimeEstimate",
    "progress",
]
