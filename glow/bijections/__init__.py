"""Invertible maps, one idea a file; ``base`` has their interface."""

from glow.bijections.actnorm import ActNorm
from glow.bijections.autoregressive import Autoregressive
from glow.bijections.base import Bijection, DataDependent, Part
from glow.bijections.composition import Composition, Inverse
from glow.bijections.continuous import Continuous
from glow.bijections.coupling import Checkerboard, Coupling, Halves, Mask
from glow.bijections.elementwise import Affine, Elementwise, Shift, Spline
from glow.bijections.gaussianize import Gaussianize
from glow.bijections.guidance import guided
from glow.bijections.linear import FullConv1x1, InvertibleConv1x1, LUConv1x1, Permutation
from glow.bijections.logistic_mixture import LogisticMixture
from glow.bijections.multiscale import MultiScale
from glow.bijections.planar import Planar
from glow.bijections.pointwise import Scale, Sigmoid
from glow.bijections.prior import GaussianPrior, SplitPrior, TopPrior
from glow.bijections.radial import Radial
from glow.bijections.repeated import Repeated
from glow.bijections.reshape import Flatten, Squeeze
from glow.bijections.residual import Residual
from glow.bijections.scales import Scales, record_scales
from glow.bijections.sylvester import Sylvester

__all__ = [
    "ActNorm",
    "Affine",
    "Autoregressive",
    "Bijection",
    "Checkerboard",
    "Composition",
    "Continuous",
    "Coupling",
    "DataDependent",
    "Elementwise",
    "Flatten",
    "FullConv1x1",
    "GaussianPrior",
    "Gaussianize",
    "Halves",
    "Inverse",
    "InvertibleConv1x1",
    "LUConv1x1",
    "LogisticMixture",
    "Mask",
    "MultiScale",
    "Part",
    "Permutation",
    "Planar",
    "Radial",
    "Repeated",
    "Residual",
    "Scale",
    "Scales",
    "Shift",
    "Sigmoid",
    "Spline",
    "SplitPrior",
    "Squeeze",
    "Sylvester",
    "TopPrior",
    "guided",
    "record_scales",
]
