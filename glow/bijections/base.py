"""The interface of every invertible map."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Bijection(nn.Module, ABC):
    r"""An invertible, differentiable map :math:`z = f(x)` of one tensor to one tensor, with a tractable Jacobian.

    Both directions return the image of a batch and the logarithm of the absolute determinant of their
    own Jacobian, one value per element of the batch, so that

    .. math:: \log p_x(x) = \log p_z(f(x)) + \log |\det \partial f / \partial x|.

    Elements of a batch never influence one another, and a batch may be empty.
    """

    kind = ""
    """What it is in a diagnosis, where kinds are added up: ``actnorm``, ``mixing``, ``coupling``, ``prior``."""

    compiles = False
    """Whether ``compile`` speeds it up without renaming its parameters; see ``Flow.compile``."""

    @abstractmethod
    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data ``x`` (B, ...) to ``z`` (B, ...) and ``log|det dz/dx|`` (B,), in nats."""

    @abstractmethod
    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map ``z`` (B, ...) back to ``x`` (B, ...) and ``log|det dx/dz|`` (B,), in nats."""

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of one ``z`` (no batch dimension) for an ``x`` of the given shape."""
        return shape

    def latent_shapes(self, shape: Shape) -> list[Shape]:
        """The shapes of the pieces of one ``z``, in its order: one per scale of a ``MultiScale``, else one in all."""
        return [self.output_shape(shape)]

    def condition_number(self) -> float | None:
        """By how much a matrix stretches one direction more than another (2-norm); None of what is no matrix."""
        return None

    def parts(self) -> Iterator["Part"]:
        """The elementary steps in the order of ``forward``: itself, or those of the bijections that it is made of."""
        yield Part(self)


@dataclass(frozen=True, eq=False)
class Part:
    """An elementary step of a bijection, and its place in the whole.

    Run one after another, the parts compute what the whole does::

        latents: list[Tensor] = []
        for part in bijection.parts():
            x, log_det = part.forward(x, context, latents)
        latents.append(x)  # one tensor per scale, finest first

    Attributes:
        bijection: the step.
        place: where it is, such as ``level 1, step 2``; empty for a bijection that is a step by itself.
        scale: the index of the scale to which it belongs, 0 the finest.
    """

    bijection: Bijection
    place: str = ""
    scale: int = 0

    @property
    def kind(self) -> str:
        """``Bijection.kind``, or ``other: CLASS``."""
        return self.bijection.kind or f"other: {type(self.bijection).__name__}"

    @property
    def name(self) -> str:
        """Place and kind: ``level 1, step 2, coupling``."""
        return f"{self.place}, {self.kind}".removeprefix(", ")

    def within(self, place: str, **changes: Any) -> "Part":
        """The same step as a part of something larger, in which it is at ``place``."""
        return replace(self, place=f"{place}, {self.place}".removesuffix(", "), **changes)

    def forward(self, x: Tensor, context: Tensor | None, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What goes on to the next part, and the log-det (B,); a latent that leaves here is added to ``latents``."""
        return self.bijection(x, context)

    def inverse(self, z: Tensor, context: Tensor | None, latents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The input of ``forward``, and the log-det (B,); a latent that left here is taken from the end of ``latents``."""
        return self.bijection.inverse(z, context)


class DataDependent(nn.Module, ABC):
    """A layer whose parameters are set from the first batch it sees (see ``Flow.initialize``)."""

    takes_counts = False
    """Whether ``initialize`` takes a histogram of the grey levels of all data as its second argument."""

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Set the parameters from the input ``x`` (B, C, ...) that ``forward`` is about to receive."""


_recorders: list[list[Tensor]] = []


def sum_event(x: Tensor) -> Tensor:
    """Sum all but the batch dimension: (B, ...) -> (B,). Of log-densities and log-dets ``record_terms`` records what is summed."""
    for terms in _recorders:
        terms.append(x)
    return x.flatten(1).sum(1)


@contextmanager
def record_terms() -> Iterator[list[Tensor]]:
    """Record the tensors (B, ...) that ``sum_event`` sums inside: of a log-probability, its terms that have places.

    >>> from glow.bijections import Sigmoid
    >>> with record_terms() as terms:
    ...     z, log_det = Sigmoid()(torch.zeros(2, 1, 4, 4))
    >>> [tuple(t.shape) for t in terms]
    [(2, 1, 4, 4)]
    """
    terms: list[Tensor] = []
    _recorders.append(terms)
    try:
        yield terms
    finally:
        _recorders.remove(terms)


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
