"""The interface of models, which training and evaluation need."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glow.bijections.base import Shape
from glow.distributions.dequantization import Dequantization
from glow.errors import UsageError, check_positive


def check_draw(n: int, temperature: float) -> None:
    """Raise ``UsageError`` unless n is an integer, and the temperature a number, of at least zero."""
    check_positive("n", n, integer=True, zero=True)
    check_positive("temperature", temperature, zero=True)


class Distribution(nn.Module, ABC):
    """A trainable density, or distribution of integers. Calling it is ``log_prob``.

    Args:
        event_shape: the shape of one element of the data, without the batch.
        dequantization: how integers become real numbers; None where the model takes its data as they are.
        classes: number of labels that it is conditioned on; 0 for none.
        observed: number of real values, an observation, that it is conditioned on instead; 0 for none.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        dequantization: Dequantization | None = None,
        classes: int = 0,
        observed: int = 0,
    ) -> None:
        super().__init__()
        self.event_shape: Shape = tuple(event_shape)
        self.dequantization = dequantization
        self.classes = classes
        self.observed = observed
        self.initialized = True

    @abstractmethod
    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The log-density or log-probability of ``x`` (B, *event_shape), or a lower bound on it: (B,), nats.

        Args:
            x: the data.
            y: labels (B,) of a class-conditional model, or what was observed (B, observed).
            noise: what ``noise`` gives; drawn anew when absent.
            generator: the source of noise that is drawn anew; the global one when absent.
        """

    @abstractmethod
    def sample(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw elements of the data.

        Args:
            n: how many, of at least zero.
            temperature: how far they spread, of at least zero; 1 samples the model itself, 0 gives its mode or what
                comes nearest to it.
            y: labels (n,), or one for all, of a class-conditional model.
            generator: the source; the global one when absent.

        Returns:
            (n, *event_shape), uint8 where the model is of integers.
        """

    def forward(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        return self.log_prob(x, y, noise, generator)

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor | None:
        """The random numbers that ``log_prob`` of ``n`` elements needs, on this model's device; None if none."""
        return None

    def initialize(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        """Set data-dependent layers from a batch, where there are any."""

    def figures(self) -> dict[str, float]:
        """What is worth a curve beside the loss, of the last ``log_prob``: by name."""
        return {}

    def compile(self, **options: Any) -> None:
        """Compile the repeated steps with ``torch.compile``. Raises ``UsageError`` where there are none."""
        raise UsageError("only a Glow has steps to compile")

    @property
    def grey_levels(self) -> int | None:
        """Levels of the integers that it models; None for real numbers."""
        return self.dequantization.grey_levels if self.dequantization else None

    @property
    def conditional(self) -> bool:
        """Whether it is conditioned on the y of its methods: labels, or an observation."""
        return bool(self.classes or self.observed)

    @property
    def kind(self) -> str:
        """What it models: ``images`` (C, H, W), ``signals`` (C, T), or else ``points``."""
        return {2: "signals", 3: "images"}.get(len(self.event_shape), "points")

    @property
    def in_bits(self) -> bool:
        """Whether its figures are bits/dim, of grey images and signals, or else nats."""
        return self.dequantization is not None

    @property
    def estimated(self) -> bool:
        """Whether noise is added to the log-density, with a mean of zero: ``log_prob`` is then right in the mean alone."""
        return False

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters, which is that of latents and densities."""
        return next(self.parameters()).dtype

    def check_event(self, x: Tensor) -> None:
        """Raise ``UsageError`` unless x is a batch of events."""
        if tuple(x.shape[1:]) != self.event_shape:
            raise UsageError(
                f"x must have shape (B, {', '.join(map(str, self.event_shape))}), got {tuple(x.shape)}"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """Keeps ``initialized`` in the state dict."""
        return {"initialized": self.initialized}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores ``initialized`` from the state dict."""
        self.initialized = bool(state["initialized"])
