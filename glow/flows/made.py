"""The masked autoencoder for distribution estimation (Germain et al. 2015), as a density of its own."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.bijections.elementwise import tanh_log_scale
from glow.distributions.base import Distribution, check_draw
from glow.distributions.latent import LOG_2_PI
from glow.errors import UsageError, check_positive, looks_at_values
from glow.flows.vectors import check_vectors
from glow.networks import MADE
from glow.seeds import draw


class MADEDensity(Distribution):
    r""":math:`p(x) = \prod_i p(x_i | x_{<i})` with all conditionals from one pass (Germain et al. 2015).

    The conditionals are Gaussian for vectors and Bernoulli for binary images. A network with M masks is M such models,
    which share their weights: training takes them in turn, one for each batch, and evaluation takes the mean of their
    densities (order-agnostic and connectivity-agnostic training, section 4).

    Args:
        event_shape: (D,), at least two dimensions, or (C, H, W) of binary images.
        hidden: size of the hidden layers.
        hidden_layers: number of those.
        order_agnostic: train in several random orders of the dimensions.
        connectivity_agnostic: train with several random connectivities.
        masks: how many of them, together; one if neither is wanted.
        grey_levels: of images: 2.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> MADEDensity((1, 4, 4), grey_levels=2).sample(3).shape
    torch.Size([3, 1, 4, 4])
    """

    next_order: Tensor

    def __init__(
        self,
        event_shape: Sequence[int],
        hidden: int = 64,
        hidden_layers: int = 2,
        order_agnostic: bool = False,
        connectivity_agnostic: bool = False,
        masks: int = 8,
        grey_levels: int | None = None,
    ) -> None:
        super().__init__(event_shape)
        check_positive("masks", masks, integer=True)
        self.binary = len(self.event_shape) == 3
        if self.binary and grey_levels != 2:
            raise UsageError(f"MADEDensity models binary images: grey_levels must be 2, got {grey_levels}")
        vector = (math.prod(event_shape),) if self.binary else event_shape
        d = check_vectors("MADEDensity", vector, hidden=hidden, hidden_layers=hidden_layers)
        m = masks if order_agnostic or connectivity_agnostic else 1
        orders = torch.stack([torch.randperm(d) if order_agnostic else torch.arange(d) for _ in range(m)])
        self.network = MADE(d, 1 if self.binary else 2, hidden, hidden_layers, orders, connectivity_agnostic)
        self.register_buffer("next_order", torch.zeros((), dtype=torch.long))

    @property
    def grey_levels(self) -> int | None:
        """Two for images."""
        return 2 if self.binary else None

    def log_prob(
        self,
        x: Tensor,
        y: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(B, *event_shape) -> (B,), nats; images hold 0 and 1, as numbers of any type."""
        self.check_event(x)
        x = x.flatten(1).to(self.dtype)
        if self.binary and looks_at_values() and ((x != 0) & (x != 1)).any():
            raise UsageError("MADEDensity models images of two grey levels, 0 and 1")
        masks = len(self.network.orders)
        if self.training and masks > 1:
            order = int(self.next_order) % masks
            self.next_order += 1
            return self._log_prob(x, order)
        return torch.stack([self._log_prob(x, k) for k in range(masks)]).logsumexp(0) - math.log(masks)

    def _log_prob(self, x: Tensor, order: int) -> Tensor:
        h = self.network(x, order=order).to(x.dtype)
        if self.binary:
            return -F.binary_cross_entropy_with_logits(h[..., 0], x, reduction="none").sum(1)
        mean, log_sd = h[..., 0], tanh_log_scale(h[..., 1])
        return -(0.5 * (((x - mean) * (-log_sd).exp()) ** 2 + LOG_2_PI) + log_sd).sum(1)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        temperature: float = 1.0,
        y: Tensor | int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """(n, *event_shape), uint8 for images; each sample in one of the orders, drawn for it, which takes D passes for each that is.

        Temperature divides the logits of Bernoullis and multiplies the standard deviations of Gaussians.
        """
        check_draw(n, temperature)
        masks, d = self.network.orders.shape
        orders = draw(torch.randint, masks, (n,), generator=generator, device=self.device)
        random = torch.rand if self.binary else torch.randn
        draws = draw(random, n, d, generator=generator, device=self.device, dtype=self.dtype)
        x = torch.zeros(n, d, device=self.device, dtype=self.dtype)
        for order in orders.unique().tolist():
            mine = orders == order
            part, own = x[mine], draws[mine]
            for i in self.network.orders[order].argsort().tolist():
                h = self.network(part, order=order)[:, i].to(x.dtype)
                if self.binary:
                    part[:, i] = (own[:, i] < (h[:, 0] / temperature).sigmoid()).to(x.dtype)
                else:
                    part[:, i] = h[:, 0] + temperature * tanh_log_scale(h[:, 1]).exp() * own[:, i]
            x[mine] = part
        x = x.unflatten(1, self.event_shape)
        return x.to(torch.uint8) if self.binary else x
