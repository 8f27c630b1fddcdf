"""The interface of every invertible map."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Bijection(nn.Module, ABC):
    r"""An invertible, differentiable map :math:`z = f(x)` with a tractable Jacobian determinant.

    Both directions return the image of a batch and the logarithm of the absolute determinant of their
    own Jacobian, one value per element of the batch, so that

    .. math:: \log p_x(x) = \log p_z(f(x)) + \log |\det \partial f / \partial x|.

    Elements of a batch never influence one another.
    """

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data ``x`` (B, ...) to ``z`` (B, ...) and ``log|det dz/dx|`` (B,), in nats."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map ``z`` (B, ...) back to ``x`` (B, ...) and ``log|det dx/dz|`` (B,), in nats."""

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of one ``z`` (no batch dimension) for an ``x`` of the given shape."""
        return shape


class DataDependent(nn.Module, ABC):
    """A layer whose parameters are set from the first batch it sees (see ``Flow.initialize``)."""

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Set the parameters from the input ``x`` (B, C, ...) that ``forward`` is about to receive."""


def sum_event(x: Tensor) -> Tensor:
    """Sum all but the batch dimension: (B, ...) -> (B,)."""
    return x.flatten(1).sum(1)


def no_log_det(x: Tensor) -> Tensor:
    """The log-determinant of a volume-preserving map: zeros of shape (B,)."""
    return x.new_zeros(x.shape[0])


@contextmanager
def ieee_precision(device: torch.device) -> Iterator[None]:
    """A context without autocast and TF32: what is inside computes in the dtype of its operands.

    A flow must be inverted with the numbers it was evaluated with. Only the coupling networks, which
    are evaluated on the same input in both directions, may run in lower precision.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        # The newer of torch's two ways to say it, where it exists: it refuses to be mixed with the older one.
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        newer = hasattr(matmul, "fp32_precision")
        name, ieee = ("fp32_precision", "ieee") if newer else ("allow_tf32", False)
        backends: list[Any] = [matmul, getattr(cudnn, "conv") if newer else cudnn]  # noqa: B009
        before = [getattr(backend, name) for backend in backends]
        try:
            for backend in backends:
                setattr(backend, name, ieee)
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                setattr(backend, name, value)
