"""Mixing channels: the invertible 1x1 convolution and the fixed permutations it generalizes.

``weight`` also gives K matrices (K, C, C), and ``log_abs_det`` the sum of theirs, where K layers' parameters
are stacked in one (see ``Repeated``).
"""

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections.base import Bijection, ieee_precision, no_log_det


class Permutation(Bijection):
    """A fixed permutation of the channels, the ablations of Kingma & Dhariwal 2018, section 6.1.

    Args:
        order: (C,) integers; channel i of z is channel ``order[i]`` of x.

    >>> Permutation.reverse(3)(torch.tensor([[1, 2, 3]]))[0].tolist()
    [[3, 2, 1]]
    """

    kind = "mixing"

    order: Tensor
    inverse_order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", torch.argsort(order))

    @classmethod
    def reverse(cls, channels: int) -> "Permutation":
        """The channels back to front (RealNVP's choice between couplings)."""
        return cls(torch.arange(channels - 1, -1, -1))

    @classmethod
    def shuffle(cls, channels: int) -> "Permutation":
        """A random order, drawn once from the global generator and kept with the weights."""
        return cls(torch.randperm(channels))

    def weight(self) -> Tensor:
        """The permutation as a matrix (C, C)."""
        return torch.eye(self.order.shape[-1], device=self.order.device)[self.order]

    def log_abs_det(self) -> Tensor:
        """Zero, a scalar."""
        return torch.zeros((), device=self.order.device)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), zeros (B,)."""
        return x[:, self.order], no_log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), zeros (B,)."""
        return z[:, self.inverse_order], no_log_det(z)


class InvertibleConv1x1(Bijection):
    """One invertible C x C matrix applied at every pixel (Kingma & Dhariwal 2018, section 3.2).

    It always computes in the dtype of its input, whatever autocast says. The inverse matrix is made in
    float64, anew for every call; ``FusedLevel`` keeps it.
    """

    kind = "mixing"

    @abstractmethod
    def weight(self) -> Tensor:
        """The matrix W (C, C)."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """log|det W|, a scalar."""

    @abstractmethod
    def inverse_weight(self) -> Tensor:
        """W's inverse (C, C), computed in float64."""

    def condition_number(self) -> float:
        """Of W, in float64; infinite where W is not finite."""
        weight = self.weight().cpu().double()
        return float(torch.linalg.cond(weight)) if weight.isfinite().all() else math.inf

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) or (B, C) -> the same shape, log-det (B,)."""
        with ieee_precision(x.device):
            return self._apply_matrix(self.weight(), x), self._log_det(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) or (B, C) -> the same shape, log-det (B,)."""
        with ieee_precision(z.device):
            return self._apply_matrix(self.inverse_weight().to(z.dtype).to(z.device), z), -self._log_det(z)

    @staticmethod
    def _apply_matrix(matrix: Tensor, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return F.linear(x, matrix)
        # As a matrix product it is faster than as a convolution and, on a GPU, not in TF32 by default.
        return torch.matmul(matrix, x.flatten(2)).view_as(x)

    def _log_det(self, x: Tensor) -> Tensor:
        return (math.prod(x.shape[2:]) * self.log_abs_det()).expand(x.shape[0])


class LUConv1x1(InvertibleConv1x1):
    r"""The 1x1 convolution in LU form, :math:`W = P L (U + diag(sign \cdot e^{s}))` (equation 10).

    P and the signs are fixed, L is unit lower and U strictly upper triangular; it starts as a random
    rotation. log|det W| is the sum of s, and triangular solves invert W.

    Args:
        channels: C.

    >>> z, log_det = LUConv1x1(4)(torch.ones(2, 4, 8, 8))
    >>> torch.allclose(log_det, torch.zeros(2), atol=1e-4)  # a rotation
    True
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.logs = nn.Parameter(diagonal.abs().log())
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())

    def _triangles(self) -> tuple[Tensor, Tensor]:
        identity = torch.eye(self.logs.shape[-1], dtype=self.logs.dtype, device=self.logs.device)
        return self.lower.tril(-1) + identity, self.upper.triu(1) + torch.diag_embed(
            self.sign * self.logs.exp()
        )

    def weight(self) -> Tensor:
        """The matrix W (C, C)."""
        lower, upper = self._triangles()
        return self.permutation @ lower @ upper

    def log_abs_det(self) -> Tensor:
        """The sum of the log-diagonal of U, a scalar."""
        return self.logs.sum()

    def inverse_weight(self) -> Tensor:
        """U^-1 L^-1 P^T by two triangular solves in float64 (on the CPU for devices without it)."""
        lower, upper = (_double(t) for t in self._triangles())
        right = torch.linalg.solve_triangular(
            lower, _double(self.permutation).T, upper=False, unitriangular=True
        )
        return torch.linalg.solve_triangular(upper, right, upper=True)


class FullConv1x1(InvertibleConv1x1):
    """The 1x1 convolution with a full matrix (equation 9), for comparison: log|det W| costs O(C^3).

    Args:
        channels: C.

    >>> f, x = FullConv1x1(3), torch.ones(2, 3, 4, 4)
    >>> torch.allclose(f.inverse(f(x)[0])[0], x, atol=1e-5)
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0])

    def weight(self) -> Tensor:
        """The matrix W (C, C)."""
        return self.matrix

    def log_abs_det(self) -> Tensor:
        """log|det W|, a scalar."""
        return torch.linalg.slogdet(self.matrix)[1].sum()

    def inverse_weight(self) -> Tensor:
        """W^-1 in float64 (on the CPU for devices without it)."""
        return torch.linalg.inv(_double(self.matrix))


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()
