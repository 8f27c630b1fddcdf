"""A flow: a bijection to a standard normal, and the density and sampler that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glow.bijections import Bijection, DataDependent, Dequantize, GlowLevel, MultiScale, plain
from glow.bijections.base import Shape, sum_event
from glow.errors import UsageError, check_positive

LOG_2_PI = math.log(2 * math.pi)


class Flow(nn.Module):
    r"""The density of data pushed forward from a standard normal by an invertible map.

    .. math:: \log p(x) = \sum_i \log N(z_i; 0, 1) + \log |\det \partial z / \partial x|

    (change of variables; Dinh et al. 2014, equation 1). The latents z, one tensor per scale, are
    standard normal under the model: learned priors are part of the bijection. Calling the flow is
    ``log_prob``.

    A flow of integer data has a ``Dequantize``; its log-probabilities are then lower bounds on those of
    the integers and already hold the level correction, so that ``-log_prob / (D ln 2)`` is bits/dim.

    A flow with data-dependent layers must be initialized before it trains, once and before any
    distributed wrapping: ``flow.initialize(batch)``. Whether that was done is kept with the weights.

    Args:
        bijection: maps data to one tensor (a ``Bijection``) or to a list, one per scale (``MultiScale``).
        event_shape: the shape of one element of the data, without the batch.
        dequantize: from integers to what the bijection takes; None for real-valued data.
        classes: number of labels that the bijection is conditioned on; 0 for none.
    """

    def __init__(
        self,
        bijection: Bijection | MultiScale,
        event_shape: Sequence[int],
        dequantize: Dequantize | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.bijection = bijection
        self.dequantize = dequantize
        self.event_shape: Shape = tuple(event_shape)
        self.classes = classes
        self.latent_shapes: list[Shape] = (
            bijection.latent_shapes(self.event_shape)
            if isinstance(bijection, MultiScale)
            else [bijection.output_shape(self.event_shape)]
        )
        self.initialized = not any(isinstance(m, DataDependent) for m in self.modules())

    def forward(self, x: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The same as ``log_prob``."""
        return self.log_prob(x, y, noise)

    def log_prob(self, x: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """The log-density of ``x``, or the lower bound on its log-probability if it is integer.

        Args:
            x: data (B, *event_shape).
            y: labels (B,), integers in 0 .. classes-1; only for class-conditional flows.
            noise: dequantization noise in [0, 1) of x's shape; drawn anew when absent.

        Returns:
            (B,), nats.

        Raises:
            UsageError: x has another shape or type, y is missing or out of range, or the flow is in
                training mode and was never initialized.
        """
        if self.training and not self.initialized:
            raise UsageError("this flow is not initialized: call flow.initialize(batch) before training it")
        latents, log_det = self._to_latents(x, y, noise)
        for z in latents:
            log_det = log_det - sum_event(0.5 * (z * z + LOG_2_PI))
        return log_det

    def encode(self, x: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> list[Tensor]:
        """The latents of ``x``, one tensor per scale, finest first.

        Args:
            x: data (B, *event_shape).
            y: labels (B,) of a class-conditional flow.
            noise: where in their bins integers are taken, as in ``log_prob``; at the centres when absent.
        """
        if noise is None and self.dequantize:
            noise = torch.tensor(0.5, device=x.device, dtype=self.dtype)
        return self._to_latents(x, y, noise)[0]

    def decode(self, latents: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """Data (B, *event_shape) from latents, the inverse of ``encode``; uint8 for a flow of integers."""
        x = self.generate(latents, y)
        return self.dequantize.inverse(x)[0] if self.dequantize else x

    def generate(self, latents: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """The real values (B, *event_shape) that ``decode`` rounds down to integers, differentiable."""
        self._check_labels(y, len(latents[0]))
        if isinstance(self.bijection, MultiScale):
            return self.bijection.inverse(latents, y)[0]
        return self.bijection.inverse(latents[0], y)[0]

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw ``n`` elements (n, *event_shape), uint8 for a flow of integers.

        Args:
            n: how many.
            temperature: factor on the standard deviation of every latent, above zero (Kingma & Dhariwal
                2018, section 6.2); 1 samples the model itself.
            y: labels (n,), or one for all; a class-conditional flow draws uniform ones when absent.
            generator: source of the latents (and labels); the global one when absent. With a CPU generator
                the samples are the same on every device.
        """
        latents = self.draw(n, temperature=temperature, generator=generator)
        if isinstance(y, int):
            y = torch.full((n,), y)
        elif y is None and self.classes:
            source = generator.device if generator is not None else self.device
            y = torch.randint(self.classes, (n,), generator=generator, device=source)
        return self.decode(latents, None if y is None else y.to(self.device))

    def draw(
        self, n: int, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Latents of ``n`` samples, one tensor per scale; drawn in float32 on the generator's device. See ``sample``."""
        check_positive("n", n, integer=True)
        check_positive("temperature", temperature)
        source = generator.device if generator is not None else self.device
        return [
            temperature
            * torch.randn(n, *shape, generator=generator, device=source).to(self.device, self.dtype)
            for shape in self.latent_shapes
        ]

    @torch.no_grad()
    def initialize(self, x: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> None:
        """Set every data-dependent layer from the batch ``x``, each from what reaches it through the others.

        Args:
            x: a representative batch (B, *event_shape), at least 256 images for a real model.
            y: labels (B,) of a class-conditional flow.
            noise: dequantization noise as in ``log_prob``; with it, the result depends on the arguments and
                the weights alone.
        """
        layers = [m for m in self.modules() if isinstance(m, DataDependent)]
        hooks = [
            layer.register_forward_pre_hook(lambda layer, inputs: layer.initialize(inputs[0]))
            for layer in layers
        ]
        before, self.initialized = self.initialized, True
        try:
            with plain(self):
                self.log_prob(x, y, noise)
        except BaseException:
            self.initialized = before
            raise
        finally:
            for hook in hooks:
                hook.remove()

    def compile(self, **options: Any) -> None:
        """Compile what repeats, the steps of a Glow, with ``torch.compile``, whose options these are.

        Weights and their names stay as they are; see ``GlowLevel.compile``.

        Raises:
            UsageError: the flow is no Glow.
        """
        levels = [m for m in self.modules() if isinstance(m, GlowLevel)]
        if not levels:
            raise UsageError("only models of the glow family can be compiled: set compile=false")
        for level in levels:
            level.compile(**options)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters, which is that of the latents and densities."""
        return next(self.parameters()).dtype

    def _to_latents(self, x: Tensor, y: Tensor | None, noise: Tensor | None) -> tuple[list[Tensor], Tensor]:
        if tuple(x.shape[1:]) != self.event_shape:
            raise UsageError(
                f"x must have shape (B, {', '.join(map(str, self.event_shape))}), got {tuple(x.shape)}"
            )
        self._check_labels(y, len(x))
        level_correction: Tensor | float = 0.0
        if self.dequantize:
            if noise is None:
                noise = torch.rand(x.shape, device=x.device, dtype=self.dtype)
            x, level_correction = self.dequantize(x, noise=noise)
        z, log_det = self.bijection(x, y)
        return (z if isinstance(z, list) else [z]), log_det + level_correction

    def _check_labels(self, y: Tensor | None, n: int) -> None:
        if not self.classes:
            if y is not None:
                raise UsageError("y was given, but this flow is not class-conditional")
            return
        if (
            y is None
            or y.is_floating_point()
            or tuple(y.shape) != (n,)
            or ((y < 0) | (y >= self.classes)).any()
        ):
            got = (
                "none"
                if y is None
                else f"{y.dtype} of shape {tuple(y.shape)}, values {y.unique().tolist()[:10]}"
            )
            raise UsageError(
                f"y must be one integer label from 0 to {self.classes - 1} per element ({n},), got {got}"
            )

    def get_extra_state(self) -> dict[str, Any]:
        """Keeps ``initialized`` in the state dict."""
        return {"initialized": self.initialized}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restores ``initialized`` from the state dict."""
        self.initialized = bool(state["initialized"])
