"""Coupling layers: one part of the values decides how the rest is moved."""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection, sum_event
from glow.bijections.elementwise import Affine, Elementwise
from glow.bijections.guidance import extrapolated
from glow.bijections.logistic_mixture import LogisticMixture
from glow.bijections.scales import RecordsScales


class Mask(ABC):
    """Which values of (B, C, ...) stay and condition, and which are moved."""

    @abstractmethod
    def given(self, x: Tensor) -> Tensor:
        """What the network sees of x (B, C, ...), in both directions the same."""

    @abstractmethod
    def moved(self, x: Tensor) -> Tensor:
        """What the elementwise function moves (B, C2, ...); the network has ``parameters`` outputs for each of the C2."""

    @abstractmethod
    def join(self, x: Tensor, moved: Tensor) -> Tensor:
        """x (B, C, ...) with moved values for its own ones."""

    @abstractmethod
    def effective(self, log_slope: Tensor) -> Tensor:
        """The log-slopes (B, C2, ...) of ``moved``, zero where ``join`` does not take its value."""


@dataclass(frozen=True)
class Halves(Mask):
    """The first half of the channels conditions the second (RealNVP's channel masks, Glow's split).

    Args:
        swap: let the second half condition the first. With an odd number of channels the second is the larger one.
    """

    swap: bool = False

    def given(self, x: Tensor) -> Tensor:
        return self._split(x)[0]

    def moved(self, x: Tensor) -> Tensor:
        return self._split(x)[1]

    def join(self, x: Tensor, moved: Tensor) -> Tensor:
        given = self.given(x)
        return torch.cat((moved, given) if self.swap else (given, moved), dim=1)

    def effective(self, log_slope: Tensor) -> Tensor:
        return log_slope

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.tensor_split([x.shape[1] // 2], dim=1)
        return (second, first) if self.swap else (first, second)


@dataclass(frozen=True)
class Checkerboard(Mask):
    """Pixels of one colour of a checkerboard condition those of the other (Dinh et al. 2017, section 3.4, figure 3).

    The network sees an image with zeros where pixels move, and has outputs for all pixels of (B, C, H, W), of which
    those where pixels stay are not used.

    Args:
        odd: let the pixels of odd row + column stay instead of the even ones.
    """

    odd: bool = False

    def given(self, x: Tensor) -> Tensor:
        return x * self._stays(x)

    def moved(self, x: Tensor) -> Tensor:
        return x

    def join(self, x: Tensor, moved: Tensor) -> Tensor:
        # Chosen, not multiplied: not every elementwise function is the identity where its parameters are zero.
        return torch.where(self._stays(x), x, moved)

    def effective(self, log_slope: Tensor) -> Tensor:
        return torch.where(self._stays(log_slope), 0.0, log_slope)

    def _stays(self, x: Tensor) -> Tensor:
        """Bool (H, W)."""
        rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
        return (rows[:, None] + columns) % 2 == self.odd


class Coupling(Bijection, RecordsScales):
    r"""Some values stay; a function moves each of the others, with parameters that a network makes of those that stay.

    :math:`z_2 = f(x_2; h(x_1))`. Additive with ``Shift`` (NICE, Dinh et al. 2014, section 3.2), affine with ``Affine``
    (RealNVP, Dinh et al. 2017, equation 4; Glow, table 1), spline with ``Spline`` (Durkan et al. 2019, section 3.2).

    Args:
        mask: which values stay and which are moved.
        network: ``mask.given(x)`` -> (B, C2 parameters, ...), the parameters of one channel after another's; Glow's
            release interleaves shifts and raw scales in this way. It is only ever evaluated, in both directions on
            the same input; under autocast it runs in the lower precision, and its output is brought back to the dtype
            of the flow. Where its ``forward`` takes a second argument, that is the context.
        elementwise: f.

    >>> coupling = Coupling(Halves(), nn.Linear(1, 2), Affine())
    >>> x = torch.tensor([[0.5, -1.0]])
    >>> z, log_det = coupling(x)
    >>> torch.allclose(coupling.inverse(z)[0], x)
    True
    """

    kind = "coupling"
    guidance = 0.0
    """See ``glow.bijections.guidance``."""

    def __init__(self, mask: Mask, network: nn.Module, elementwise: Elementwise) -> None:
        super().__init__()
        self.mask = mask
        self.network = network
        self.elementwise = elementwise
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        takes = [p for p in inspect.signature(network.forward).parameters.values() if p.kind in positional]
        self._takes_context = len(takes) > 1

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), log-det (B,)."""
        moved, log_slope = self.elementwise.forward(self.mask.moved(x), self._parameters_for(x, context))
        log_slope = self.mask.effective(log_slope)
        scales = isinstance(self.elementwise, (Affine, LogisticMixture))
        if self.recorder is not None and scales and log_slope.numel():
            self.recorder.add(*(extreme.exp() for extreme in log_slope.detach().aminmax()))
        return self.mask.join(x, moved), sum_event(log_slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, C, ...) -> (B, C, ...), log-det (B,)."""
        moved, log_slope = self.elementwise.inverse(self.mask.moved(z), self._parameters_for(z, context))
        return self.mask.join(z, moved), sum_event(self.mask.effective(log_slope))

    def extra_repr(self) -> str:
        """Mask and function, in which two couplings may differ."""
        return f"{self.mask}, {self.elementwise}"

    def _parameters_for(self, x: Tensor, context: Tensor | None) -> Tensor:
        """(B, C2, ..., parameters) in the dtype of x."""
        given = self.mask.given(x)
        if self._takes_context:
            h = extrapolated(lambda y: self.network(given, y), context, self.guidance)
        else:
            h = self.network(given)
        return h.to(x.dtype).unflatten(1, (-1, self.elementwise.parameters)).movedim(2, -1)
