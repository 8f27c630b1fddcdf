"""Variational autoencoders with a Gaussian, inverse autoregressive, planar or Sylvester posterior."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections import Affine, Bijection, Composition, Planar, Sylvester
from glow.distributions.base import Distribution, check_draw
from glow.distributions.latent import StandardNormal
from glow.errors import UsageError, check_choice, check_positive, looks_at_values
from glow.flows.autoregressive import autoregressive_layers
from glow.seeds import draw


class VAE(Distribution):
    r"""Binary images from latents, with an amortized posterior (Rezende & Mohamed 2015, section 4.2; Kingma et al. 2016).

    The encoder gives a Gaussian for each image and a context; :math:`z = f(z_0; c)` with :math:`z_0` from the Gaussian,
    and ``log_prob`` is one draw of the evidence lower bound

    .. math:: \log p(x|z) + \log p(z) - \log q(z_0|x) + \log |\det \partial z / \partial z_0|.

    Several draws together, ``bound=iw`` of ``evaluate.py``, give the importance-weighted log-likelihood (Burda et al. 2016).

    Args:
        event_shape: (C, H, W) of images with values 0 and 1.
        posterior: f: ``gaussian`` (no flow), ``iaf`` (Kingma et al. 2016), ``planar`` (Rezende & Mohamed 2015) or ``sylvester``
            (van den Berg et al. 2018).
        layers: maps of that flow.
        hidden: size of the hidden layers of encoder, decoder and the flow's networks.
        latents: dimensions of z.
        context: numbers that the encoder gives the flow for each image.
        grey_levels: 2.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> VAE((1, 4, 4), grey_levels=2).sample(3).shape
    torch.Size([3, 1, 4, 4])
    """

    grey_levels = 2

    def __init__(
        self,
        event_shape: Sequence[int],
        posterior: str = "gaussian",
        layers: int = 4,
        hidden: int = 128,
        latents: int = 8,
        context: int = 32,
        grey_levels: int | None = None,
    ) -> None:
        if len(event_shape) != 3 or grey_levels != 2:
            raise UsageError(
                f"VAE models binary images: the data must be images (C, H, W) and grey_levels 2, got shape "
                f"{tuple(event_shape)} and grey_levels {grey_levels}"
            )
        check_choice("posterior", posterior, ("gaussian", "iaf", "planar", "sylvester"))
        for name, value in {"layers": layers, "hidden": hidden, "context": context}.items():
            check_positive(name, value, integer=True)
        check_positive("latents", latents, integer=True)
        if posterior == "iaf" and latents < 2:
            raise UsageError(f"latents must be two or more for posterior=iaf, got {latents}")
        super().__init__(event_shape)
        maps: list[Bijection] = []
        if posterior == "iaf":
            maps = autoregressive_layers(latents, layers, hidden, 1, Affine("tanh"), context)
        elif posterior == "planar":
            maps = [Planar(latents, context) for _ in range(layers)]
        elif posterior == "sylvester":
            maps = [Sylvester(latents, latents, context) for _ in range(layers)]
        d = math.prod(event_shape)
        self.encoder = _network(d, hidden, 2 * latents + context)  # mean, log standard deviation, context
        self.posterior = Composition(maps)
        self.decoder = _network(latents, hidden, d)  # logits
        self.latents = latents
        self.prior = StandardNormal()

    def noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Standard normals (n, latents), which the encoder turns into its draws."""
        normals = partial(torch.randn, dtype=self.dtype)
        return draw(normals, n, self.latents, generator=generator, device=self.device)

    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """A lower bound on log P(x), images of 0 and 1 of any type: (B,), nats."""
        self.check_event(x)
        x = x.flatten(1).to(self.dtype)
        if looks_at_values() and ((x != 0) & (x != 1)).any():
            raise UsageError("VAE models images of two grey levels, 0 and 1")
        noise = self.noise(len(x), generator).to(x) if noise is None else noise
        z, log_q = self._posterior(x, noise)
        logits = self.decoder(z).to(x.dtype)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        return log_likelihood + self.prior.log_prob(z) - log_q

    def _posterior(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, latents) and log q(z|x) (B,)."""
        mean, log_sd, context = (
            self.encoder(x).to(x.dtype).tensor_split([self.latents, 2 * self.latents], dim=1)
        )
        log_q = self.prior.log_prob(noise) - log_sd.sum(1)
        z, log_det = self.posterior(mean + log_sd.exp() * noise, context)
        return z, log_q - log_det

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """uint8 (n, *event_shape), zeros and ones; temperature is the standard deviation of the latents."""
        check_draw(n, temperature)
        own: dict[str, Any] = {"generator": generator, "device": self.device, "dtype": self.dtype}
        z = temperature * draw(torch.randn, n, self.latents, **own)
        u = draw(torch.rand, n, math.prod(self.event_shape), **own)
        probability = self.decoder(z).sigmoid()
        return (u.to(probability) < probability).to(torch.uint8).unflatten(1, self.event_shape)


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.SiLU(),
        nn.Linear(hidden, hidden),
        nn.SiLU(),
        nn.Linear(hidden, outputs),
    )
