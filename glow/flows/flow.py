"""A flow: a bijection to a base distribution, and the density and sampler that follow from it."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from glow.bijections import ActNorm, Bijection, DataDependent
from glow.bijections.base import Shape
from glow.bijections.guidance import guided
from glow.bijections.repeated import unfused
from glow.distributions.base import Distribution, check_draw
from glow.distributions.dequantization import Dequantization
from glow.distributions.latent import Base, StandardNormal
from glow.errors import UsageError
from glow.flows.labels import observations, one_hot
from glow.seeds import draw


class Flow(Distribution):
    r"""The density of data pushed forward from a base distribution by an invertible map.

    .. math:: \log p(x) = \log b(z) + \log |\det \partial z / \partial x|

    (change of variables; Dinh et al. 2014, equation 1). The latents z, one tensor per scale, are
    standard normal under the model unless another base is given: learned priors are part of the bijection.
    Calling the flow is ``log_prob``.

    A flow of integer data has a ``Dequantization``; its log-probabilities are then lower bounds on those of
    the integers and already hold the level correction, so that ``-log_prob / (D ln 2)`` is bits/dim.

    A flow with data-dependent layers must be initialized before it trains, once and before any
    distributed wrapping: ``flow.initialize(batch)``. Whether that was done is kept with the weights.

    Args:
        bijection: maps data to latents.
        event_shape: the shape of one element of the data, without the batch.
        dequantization: from integers to what the bijection takes; None for real-valued data.
        classes: number of labels that the bijection is conditioned on; 0 for none.
        observed: number of real values that it is conditioned on instead, which are standardized by an ``ActNorm`` first.
        base: the distribution b of the latents; the standard normal when absent.

    >>> from glow.bijections import ActNorm
    >>> flow = Flow(ActNorm(2), event_shape=(2,))
    >>> flow.initialize(torch.randn(100, 2))
    >>> x = torch.zeros(3, 2)
    >>> flow.log_prob(x).shape
    torch.Size([3])
    >>> latents = flow.encode(x)
    >>> [tuple(z.shape) for z in latents], torch.allclose(flow.decode(latents), x, atol=1e-6)
    ([(3, 2)], True)
    >>> tuple(flow.flatten(latents).shape), tuple(flow.sample(5, temperature=0.7).shape)
    ((3, 2), (5, 2))
    """

    def __init__(
        self,
        bijection: Bijection,
        event_shape: Sequence[int],
        dequantization: Dequantization | None = None,
        classes: int = 0,
        base: Base | None = None,
        observed: int = 0,
    ) -> None:
        super().__init__(event_shape, dequantization, classes, observed)
        self.bijection = bijection
        self.standardize = ActNorm(observed) if observed else None
        self.base = base or StandardNormal()
        self.latent_shapes: list[Shape] = bijection.latent_shapes(self.event_shape)
        self.initialized = not any(isinstance(m, DataDependent) for m in self.modules())

    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The log-density of ``x``, or the lower bound on its log-probability if it is integer.

        Args:
            x: data (B, *event_shape).
            y: labels (B,) of a class-conditional flow, integers in 0 .. classes-1, -1 where there is none; the density
                without labels when absent. Of a flow that is conditioned on an observation it must be given: (B, observed), or
                (observed,) for all.
            noise: dequantization noise in [0, 1) of x's shape; drawn anew when absent.
            generator: the source of noise that is drawn anew; the global one when absent.

        Returns:
            (B,), nats.

        Raises:
            UsageError: x has another shape or type, y is out of range, or the flow is in training mode and was never
                initialized.
        """
        if self.training and not self.initialized:
            raise UsageError("this flow is not initialized: call flow.initialize(batch) before training it")
        z, log_det = self._to_latents(x, y, noise, generator)
        return self.base.log_prob(z) + log_det

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Dequantization noise in [0, 1) for ``n`` elements of integers: (n, *event_shape)."""
        if self.dequantization is None:
            return None
        return self.dequantization.noise(n, self.event_shape, generator, self.dtype, self.device)

    def encode(self, x: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> list[Tensor]:
        """The latents of ``x``, one tensor per scale, finest first.

        Args:
            x: data (B, *event_shape).
            y: labels (B,) of a class-conditional flow.
            noise: where in their bins integers are taken, as in ``log_prob``; at the centres when absent.
        """
        if noise is None and self.dequantization:
            noise = torch.tensor(self.dequantization.CENTRE, device=x.device, dtype=self.dtype)
        return self.unflatten(self._to_latents(x, y, noise)[0])

    def decode(self, latents: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """Data (B, *event_shape) from latents, the inverse of ``encode``; uint8 for a flow of integers."""
        x = self.generate(latents, y)
        return self.dequantization.quantize(x) if self.dequantization else x

    def flatten(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents, one tensor (B, ...) per scale, as one vector per element: (B, D)."""
        return torch.cat([z.flatten(1) for z in latents], dim=1)

    def unflatten(self, z: Tensor) -> list[Tensor]:
        """The inverse of ``flatten``: (B, D) -> one tensor per scale, finest first."""
        pieces = z.flatten(1).split([math.prod(s) for s in self.latent_shapes], dim=1)
        return [piece.unflatten(1, s) for piece, s in zip(pieces, self.latent_shapes, strict=True)]

    def generate(self, latents: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """The real values (B, *event_shape) that ``decode`` rounds down to integers, differentiable."""
        return self._from_latents(latents, y)[0]

    def generate_with_log_prob(self, latents: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Real values (B, *event_shape) from latents and their log-density (B,), in one pass and differentiable.

        It is what reverse-KL training needs (Rezende & Mohamed 2015, section 4).
        """
        x, log_det = self._from_latents(latents, None)
        return x, self.base.log_prob(self._joined(latents)) - log_det

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        guidance: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw ``n`` elements (n, *event_shape), uint8 for a flow of integers.

        Args:
            n: how many.
            temperature: factor on the standard deviation of every latent (Kingma & Dhariwal 2018, section 6.2), or what
                the base takes it for; 1 samples the model itself, 0 gives the image of the base's mode.
            y: labels (n,), or one for all, -1 for none; a class-conditional flow draws uniform ones when absent. Or
                observations (n, observed), or one for all (observed,).
            guidance: how much more clearly than the data the samples show their labels, see ``glow.bijections.guided``; 0 draws
                from the model itself.
            generator: source of the latents (and labels); the global one when absent. With a CPU generator
                the samples are the same on every device.
        """
        latents = self.sample_latents(n, temperature=temperature, generator=generator)
        if isinstance(y, int):
            y = torch.full((n,), y)
        elif y is None and self.classes:
            y = draw(torch.randint, self.classes, (n,), generator=generator, device=self.device)
        with guided(self, guidance):
            return self.decode(latents, None if y is None else y.to(self.device))

    def sample_latents(
        self, n: int, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """The latents of ``n`` samples, one tensor (n, ...) per scale, on the flow's device.

        Args:
            n: how many.
            temperature: see ``sample``.
            generator: their source; they are drawn on its device in float32, so that one of the CPU gives the same
                on every device.
        """
        check_draw(n, temperature)
        with self.device if generator is None else nullcontext():
            drawn = [
                self.base.sample(n, shape, temperature=temperature, generator=generator)
                for shape in self.latent_shapes
            ]
        return [z.to(self.device, self.dtype) for z in drawn]

    @torch.no_grad()
    def initialize(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> None:
        """Set every data-dependent layer from the batch ``x``, each from what reaches it through the others.

        Args:
            x: a representative batch (B, *event_shape), at least 256 images for a real model.
            y: labels (B,) of a class-conditional flow.
            noise: dequantization noise as in ``log_prob``; with it, the result depends on the arguments and
                the weights alone.
            counts: how many of all training data's values have each grey level, (C, grey_levels) integers; those of
                the batch are counted when absent.
        """

        def initialize(layer: Any, inputs: tuple[Any, ...]) -> None:
            layer.initialize(inputs[0], *([counts] if layer.takes_counts else []))

        layers = [m for m in self.modules() if isinstance(m, DataDependent)]
        hooks = [layer.register_forward_pre_hook(initialize) for layer in layers]
        before, self.initialized = self.initialized, True
        try:
            with unfused(self):
                self.log_prob(x, y, noise)
        except BaseException:
            self.initialized = before
            raise
        finally:
            for hook in hooks:
                hook.remove()

    def compile(self, **options: Any) -> None:
        """Compile what repeats, the steps of a Glow, with ``torch.compile``, whose options these are.

        Weights and their names stay as they are; see ``FusedLevel.compile``.

        Raises:
            UsageError: nothing of the flow compiles.
        """
        levels = [m for m in self.modules() if getattr(m, "compiles", False)]
        if not levels:
            super().compile(**options)  # raises
        for level in levels:
            level.compile(**options)

    def context(self, y: Tensor | None, n: int, noise: Tensor | None = None) -> Tensor | None:
        """What the bijection is told of ``n`` elements: their labels, see ``glow.flows.labels``, (n, classes), or their
        standardized observations (n, observed)."""
        if self.standardize is not None:
            return self.standardize(observations(y, n, self.observed).to(self.device, self.dtype))[0]
        context = one_hot(y, n, self.classes, self.device if self.classes else None)
        return None if context is None else context.to(self.device, self.dtype)

    def _to_latents(
        self,
        x: Tensor,
        y: Tensor | None,
        noise: Tensor | None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """z as the bijection gives it, and the log-det (B,) with the level correction."""
        self.check_event(x)
        if noise is None and (noise := self.noise(len(x), generator)) is not None:
            noise = noise.to(x.device)
        context = self.context(y, len(x), noise)
        if self.dequantization is None:
            return self.bijection(x, context)
        assert noise is not None
        x, level_correction = self.dequantization(x, noise)
        z, log_det = self.bijection(x, context)
        return z, log_det + level_correction

    def _from_latents(self, latents: Sequence[Tensor], y: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.bijection.inverse(self._joined(latents), self.context(y, len(latents[0])))

    def _joined(self, latents: Sequence[Tensor]) -> Tensor:
        """One tensor, in the shape that the bijection gives."""
        return self.flatten(latents).unflatten(1, self.bijection.output_shape(self.event_shape))
