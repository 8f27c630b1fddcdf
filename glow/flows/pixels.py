"""Images pixel by pixel, signals sample by sample: what models of one given those before it have in common."""

import sys
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from glow.bijections.base import Shape, sum_event
from glow.distributions.base import Distribution, check_draw
from glow.distributions.dequantization import check_grey_levels, check_levels
from glow.distributions.logistics import DiscretizedLogistics
from glow.errors import UsageError, check_positive
from glow.networks import CausalNet

AT_ONCE = 500
"""Images drawn at a time: of a 28x28 image the hidden layers of a PixelCNN keep 0.15 MB."""


class PixelByPixel(Distribution):
    r""":math:`P(x) = \prod_i P(x_i | x_{<i})` over the pixels, row by row.

    The conditionals are mixtures of discretized logistics, whose parameters one pass of a causal network gives. ``log_prob`` is
    exact, where that of a flow is a bound, and a sample takes one small pass a pixel.

    A subclass has the ``network``: called with pixels in [-1, 1] (B, C, H, W) it gives (B, pixel.parameters, H, W), each pixel's
    from those before it, and its ``unroll`` is that of ``CausalNet``. A signal (C, T) is to it an image of one row.

    Args:
        event_shape: (C, H, W), or (C, T).
        grey_levels: of the images.
        components: logistics of the mixture.

    Raises:
        UsageError: naming the argument that does not fit.
    """

    takes: ClassVar[str] = "images"
    """The ``kind`` of the data."""
    network: CausalNet

    def __init__(self, event_shape: Sequence[int], grey_levels: int | None, components: int) -> None:
        super().__init__(event_shape)
        if self.kind != self.takes or grey_levels is None:
            raise UsageError(
                f"{type(self).__name__} models {self.takes} of grey levels, but the data has shape {self.event_shape} "
                f"and grey_levels={grey_levels}"
            )
        check_positive("components", components, integer=True)
        check_grey_levels(grey_levels)
        self.pixel = DiscretizedLogistics(event_shape[0], grey_levels, components)

    @property
    def grey_levels(self) -> int:
        return self.pixel.grey_levels

    @property
    def in_bits(self) -> bool:
        """Of grey images; the literature measures binary ones in nats."""
        return self.grey_levels > 2

    @property
    def image_shape(self) -> Shape:
        """(C, H, W) of an image, (C, 1, T) of a signal."""
        channels, *rows, across = self.event_shape
        return (channels, *(rows or (1,)), across)

    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The log-probability of integers (B, *event_shape), exactly: (B,), nats."""
        self.check_event(x)
        check_levels(x, self.grey_levels)
        noise = self.noise(len(x), generator) if noise is None else noise
        x = x.reshape(len(x), *self.image_shape)
        parameters = self.parameters_of(self.pixel.scaled(x.to(self.dtype)), noise).to(self.dtype)
        return sum_event(self.pixel.log_prob(parameters, x))

    def parameters_of(self, x: Tensor, noise: Tensor | None) -> Tensor:
        """What describes the distribution of every pixel, (B, pixel.parameters, H, W), of pixels in [-1, 1] and ``noise``."""
        return self.network(x)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """uint8 (n, *event_shape); temperature narrows the conditionals, and at 0 each pixel is its likeliest logistic's mean.

        ``progress`` is that of ``complete``.
        """
        check_draw(n, temperature)
        nothing = torch.zeros(self.event_shape, dtype=torch.uint8, device=self.device)
        return self._draw(n, nothing, 0, temperature, generator, progress)

    @torch.no_grad()
    def complete(
        self,
        image: Tensor,
        missing: Tensor,
        n: int,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        progress: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Fill what is missing of an image or signal, exactly given the rest: uint8 (n, *event_shape).

        Args:
            image: integers (C, H, W), or (C, T).
            missing: (H, W), or (1, T), true where a pixel is to be drawn.
            n: how many.
            temperature: see ``sample``.
            generator: see there.
            progress: called before each row with the number of rows done and the images so far; it may raise to end this.

        Raises:
            UsageError: a pixel is known after the first that is missing, row by row: it would not be taken into account.
        """
        check_draw(n, temperature)
        self.check_event(image[None])
        check_levels(image, self.grey_levels)
        if missing.dtype != torch.bool or missing.shape != self.image_shape[1:]:
            raise UsageError(
                f"missing must be bool {self.image_shape[1:]}, got {missing.dtype} {tuple(missing.shape)}"
            )
        hidden = missing.flatten()
        first = int(hidden.int().argmax())
        if not hidden[first:].all():
            raise UsageError(
                f"{type(self).__name__} fills {self.takes} in order: all pixels after the first missing one must be missing, as with "
                f"mask={'bottom' if self.takes == 'images' else 'right'}"
            )
        return self._draw(n, image.to(self.device), first, temperature, generator, progress)

    def _draw(
        self,
        n: int,
        image: Tensor,
        first: int,
        temperature: float,
        generator: torch.Generator | None,
        progress: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """Copies of an image, or signal, whose pixels from ``first`` on are drawn."""
        from tqdm import tqdm  # models need torch alone until they draw

        drawn = image.to(torch.uint8).view(self.image_shape).repeat(n, 1, 1, 1)
        parts, (_, height, across) = drawn.split(AT_ONCE), self.image_shape
        total = len(parts) * height * across
        with tqdm(total=total, desc="pixels", delay=2, disable=not sys.stderr.isatty()) as bar:
            for images in parts:  # views

                def choose(parameters: Tensor, i: int, j: int, images: Tensor = images) -> Tensor:
                    bar.update()
                    if progress and not j:
                        progress(i, drawn.view(n, *self.event_shape).cpu())
                    if i * across + j >= first:
                        level = self.pixel.sample(parameters.to(self.dtype), temperature, generator)
                        images[:, :, i, j] = level[..., 0, 0].to(torch.uint8)
                    return self.pixel.scaled(images[:, :, i, j].to(self.dtype))

                self.network.unroll(torch.zeros_like(images, dtype=self.dtype), choose)
        return drawn.view(n, *self.event_shape)
