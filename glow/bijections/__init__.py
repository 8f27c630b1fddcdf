"""Invertible maps, one per file; ``base`` has their interface."""

from glow.bijections.actnorm import ActNorm
from glow.bijections.base import Bijection, DataDependent
from glow.bijections.composition import Composition
from glow.bijections.coupling import AdditiveCoupling, AffineCoupling, Coupling
from glow.bijections.dequantize import Dequantize
from glow.bijections.level import GlowLevel, GlowStep, plain
from glow.bijections.linear import InvertibleConv1x1, LUConv1x1, Permutation, PlainConv1x1
from glow.bijections.multiscale import MultiScale
from glow.bijections.prior import GaussianPrior, SplitPrior, TopPrior
from glow.bijections.squeeze import Squeeze

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Bijection",
    "Composition",
    "Coupling",
    "DataDependent",
    "Dequantize",
    "GaussianPrior",
    "GlowLevel",
    "GlowStep",
    "InvertibleConv1x1",
    "LUConv1x1",
    "MultiScale",
    "Permutation",
    "PlainConv1x1",
    "SplitPrior",
    "Squeeze",
    "TopPrior",
    "plain",
]
