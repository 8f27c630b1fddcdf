"""Survival as Lightning callbacks and plugins: whole checkpoints, signals, non-finite numbers, clusters."""

from glow.resilience.checkpoints import BestCheckpoint, LastCheckpoint
from glow.resilience.csv_logger import AppendingCSVLogger
from glow.resilience.environments import SlurmEnvironment, TorchrunEnvironment, cluster_environment
from glow.resilience.nonfinite import NonFiniteGuard
from glow.resilience.signals import StopOnSignal
from glow.resilience.storage import DurableCheckpointIO

__all__ = [
    "AppendingCSVLogger",
    "BestCheckpoint",
    "DurableCheckpointIO",
    "LastCheckpoint",
    "NonFiniteGuard",
    "SlurmEnvironment",
    "StopOnSignal",
    "TorchrunEnvironment",
    "cluster_environment",
]
