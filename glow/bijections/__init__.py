"""Invertible maps, one per file; ``base`` has their interface."""

from glow.bijections.actnorm import ActNorm
from glow.bijections.autoregressive import Autoregressive, Inverse
from glow.bijections.base import Bijection, DataDependent
from glow.bijections.checkerboard import CheckerboardCoupling
from glow.bijections.composition import Composition
from glow.bijections.coupling import AdditiveCoupling, AffineCoupling, Coupling, SplineCoupling
from glow.bijections.dequantize import Dequantize
from glow.bijections.elementwise import Affine, Elementwise, Spline
from glow.bijections.flatten import Flatten
from glow.bijections.level import GlowLevel, GlowStep, plain
from glow.bijections.linear import InvertibleConv1x1, LUConv1x1, Permutation, PlainConv1x1
from glow.bijections.multiscale import MultiScale
from glow.bijections.planar import Planar
from glow.bijections.prior import GaussianPrior, SplitPrior, TopPrior
from glow.bijections.radial import Radial
from glow.bijections.scale import DiagonalScale
from glow.bijections.sigmoid import Sigmoid
from glow.bijections.squeeze import Squeeze

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "Affine",
    "AffineCoupling",
    "Autoregressive",
    "Bijection",
    "CheckerboardCoupling",
    "Composition",
    "Coupling",
    "DataDependent",
    "Dequantize",
    "DiagonalScale",
    "Elementwise",
    "Flatten",
    "GaussianPrior",
    "GlowLevel",
    "GlowStep",
    "Inverse",
    "InvertibleConv1x1",
    "LUConv1x1",
    "MultiScale",
    "Permutation",
    "PlainConv1x1",
    "Planar",
    "Radial",
    "Sigmoid",
    "Spline",
    "SplineCoupling",
    "SplitPrior",
    "Squeeze",
    "TopPrior",
    "plain",
]
