"""Invertible maps, one per file; ``base`` has their interface."""

from glow.bijections.actnorm import ActNorm
from glow.bijections.autoregressive import Autoregressive, Inverse
from glow.bijections.base import Bijection, DataDependent
from glow.bijections.checkerboard import CheckerboardCoupling
from glow.bijections.composition import Composition
from glow.bijections.coupling import AdditiveCoupling, AffineCoupling, Coupling, SplineCoupling
from glow.bijections.elementwise import Affine, Elementwise, Spline
from glow.bijections.flatten import Flatten
from glow.bijections.linear import FullConv1x1, InvertibleConv1x1, LUConv1x1, Permutation
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
    "DiagonalScale",
    "Elementwise",
    "Flatten",
    "FullConv1x1",
    "GaussianPrior",
    "Inverse",
    "InvertibleConv1x1",
    "LUConv1x1",
    "MultiScale",
    "Permutation",
    "Planar",
    "Radial",
    "Sigmoid",
    "Spline",
    "SplineCoupling",
    "SplitPrior",
    "Squeeze",
    "TopPrior",
]
