"""Orthogonal Sylvester flows."""

import torch
from torch import Tensor

from glow.bijections.amortized import Amortized
from glow.bijections.planar import solve
from glow.errors import UsageError, check_positive


class Sylvester(Amortized):
    r""":math:`z = x + Q R \tanh(\tilde R Q^T x + b)`: many planar maps at once (van den Berg et al. 2018, section 3).

    Q (D, M) has orthonormal columns, R and :math:`\tilde R` are upper triangular, and
    :math:`\det = \prod_i (1 + \tanh'(\cdot)_i R_{ii} \tilde R_{ii})` . Their diagonals are in (-1, 1), which makes the map
    invertible (theorem 2 there). Q is of a QR decomposition, where the paper iterates. The inverse finds the M coordinates
    :math:`Q^T x` from the last to the first, each by a bisection.

    Args:
        dimensions: D.
        columns: M, at most D.
        context: size of a context (B, context) that decides Q, R and b of every element by a linear layer; 0 for one
            map for all.

    Raises:
        UsageError: there are more columns than dimensions, or none.

    >>> f, x = Sylvester(3, 2), torch.ones(4, 3)
    >>> torch.allclose(f.inverse(f(x)[0])[0], x)
    True
    """

    def __init__(self, dimensions: int, columns: int, context: int = 0) -> None:
        check_positive("columns", columns, integer=True)
        if columns > dimensions:
            raise UsageError(f"columns must be at most the {dimensions} dimensions, got {columns}")
        triangle = columns * (columns + 1) // 2
        sizes = [dimensions * columns, triangle, triangle, columns]  # of Q, R, the other R and b
        # Only R is zero: the map starts as the identity, and what it depends on is there.
        start = [torch.randn(n) * (i != 1) for i, n in enumerate(sizes)]
        super().__init__(torch.cat(start), context)
        self.shape, self.sizes = (dimensions, columns), sizes

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,)."""
        q, r, other, b = self._parameters_from(x, context)
        t = torch.tanh(_times(other, _times(q.mT, x)) + b)
        stretch = r.diagonal(dim1=-2, dim2=-1) * other.diagonal(dim1=-2, dim2=-1)
        return x + _times(q, _times(r, t)), torch.log1p((1 - t * t) * stretch).sum(1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,)."""
        q, r, other, b = self._parameters_from(z, context)
        w = _times(q.mT, z)
        # Of the last coordinates, which come first: v = Q^T x, and t, the tangents' values.
        v, t, log_det = w[:, :0], w[:, :0], z.new_zeros(len(z))
        for i in reversed(range(self.shape[1])):
            known = w[:, i] - (r[:, i, i + 1 :] * t).sum(1)
            shift = b[:, i] + (other[:, i, i + 1 :] * v).sum(1)
            stretch = r[:, i, i] * other[:, i, i]
            s = torch.tanh(solve(other[:, i, i] * known, stretch, shift) + shift)
            log_det = log_det - torch.log1p(stretch * (1 - s * s))
            v = torch.cat(((known - r[:, i, i] * s)[:, None], v), dim=1)
            t = torch.cat((s[:, None], t), dim=1)
        return z - _times(q, _times(r, t)), log_det

    def _parameters_from(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q (B, D, M), both R (B, M, M) and b (B, M)."""
        q, *triangles, b = self.numbers(context, x.dtype).split(self.sizes, dim=1)
        q = torch.linalg.qr(q.unflatten(1, self.shape))[0]
        r, other = (self._triangular(values) for values in triangles)
        return tuple(p.expand(len(x), *p.shape[1:]) for p in (q, r, other, b))  # type: ignore[return-value]

    def _triangular(self, values: Tensor) -> Tensor:
        """(B, M (M + 1) / 2), row by row -> (B, M, M), the diagonal in (-1, 1)."""
        m = self.shape[1]
        rows, columns = torch.triu_indices(m, m, device=values.device)
        values = torch.where(rows == columns, torch.tanh(values), values)
        full = values.new_zeros(len(values), m * m)
        return full.index_copy(1, rows * m + columns, values).unflatten(1, (m, m))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, N, M), (B, M) -> (B, N); no product that autocast would take for one of a network."""
    return (matrix * vector[:, None]).sum(2)
