"""Survival: checkpoints that are whole, signals, numbers that are not finite, clusters."""

from glow.resilience.checkpoints import BestCheckpoint, LastCheckpoint
from glow.resilience.csv_logger import AppendingCSVLogger
from glow.resilience.signals import StopOnSignal

__all__ = ["AppendingCSVLogger", "BestCheckpoint", "LastCheckpoint", "StopOnSignal"]
