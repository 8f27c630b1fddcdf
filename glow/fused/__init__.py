"""Kernels for K equal steps of a Glow: faster, the same numbers and the same checkpoints."""

from glow.fused.level import GlowLevel, GlowStep, unfused

__all__ = ["GlowLevel", "GlowStep", "unfused"]
