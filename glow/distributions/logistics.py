"""Mixtures of discretized logistics: probabilities of integers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.seeds import draw

LEAST_LOG_SCALE = -7.0
"""Of a logistic, in units of half the range: narrower, float32 cannot tell one level's ends apart."""


class DiscretizedLogistics:
    r"""The distribution of a pixel's C channels as K logistics that are cut into levels (Salimans et al. 2017, sections 2.1 and 2.2).

    .. math:: P(v | \pi, \mu, s) = \sum_k \pi_k \prod_c [\sigma((x_c + \tfrac1{n-1} - \mu_{kc}) / s_{kc}) - \sigma((x_c - \tfrac1{n-1} - \mu_{kc}) / s_{kc})]

    with x = 2 v / (n - 1) - 1 for the levels v = 0 .. n - 1; the first reaches to minus and the last to plus infinity, so that
    probabilities sum to one. All channels of a pixel are of one component, and the means of later ones depend linearly on the
    earlier channels (equation 3).

    Args:
        channels: C.
        grey_levels: n.
        components: K.

    >>> pixel = DiscretizedLogistics(1, 4, 2)
    >>> levels = torch.arange(4).view(4, 1, 1, 1)
    >>> parameters = torch.randn(1, pixel.parameters, 1, 1).expand(4, -1, -1, -1)
    >>> round(pixel.log_prob(parameters, levels).exp().sum().item(), 4)
    1.0
    """

    def __init__(self, channels: int, grey_levels: int, components: int) -> None:
        self.channels, self.grey_levels, self.components = channels, grey_levels, components
        self.pairs = channels * (channels - 1) // 2
        self.parameters = components * (1 + 2 * channels + self.pairs)
        """How many numbers describe the distribution of one pixel."""

    def scaled(self, v: Tensor) -> Tensor:
        """Levels -> reals in [-1, 1]."""
        return 2 * v / (self.grey_levels - 1) - 1

    def log_prob(self, parameters: Tensor, v: Tensor) -> Tensor:
        """The log-probability of every pixel: (B, parameters, H, W), levels (B, C, H, W) -> (B, H, W), nats."""
        x = self.scaled(v.to(parameters.dtype))
        log_weight, mean, log_scale, pairs = self._split(parameters)
        mean = self._means(mean, pairs, x)
        half, sharp = 1 / (self.grey_levels - 1), (-log_scale).exp()
        x, v = x[:, None], v[:, None]
        # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a)); beyond the ends a or -b is infinite.
        upper, lower = (x + half - mean) * sharp, (x - half - mean) * sharp
        last, first = v == self.grey_levels - 1, v == 0
        inside = torch.log(-torch.expm1(-2 * half * sharp))
        log_p = (
            F.logsigmoid(upper).masked_fill(last, 0)
            + F.logsigmoid(-lower).masked_fill(first, 0)
            + inside.masked_fill(last | first, 0)
        )
        return (log_weight + log_p.sum(2)).logsumexp(1)

    def sample(self, parameters: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        """Levels (B, C, H, W), int64. Temperature sharpens the choice of components and narrows each; at 0 it is the
        likeliest one's mean."""
        log_weight, mean, log_scale, pairs = self._split(parameters)
        b, _, c, h, w = mean.shape
        size = b, self.components + c, h, w
        u = draw(torch.rand, *size, generator=generator, device=parameters.device, dtype=parameters.dtype)
        u = u.clamp(1e-7, 1 - 1e-7)
        gumbel = -(-u[:, : self.components].log()).log()
        chosen = (log_weight + temperature * gumbel).argmax(1)[:, None, None]  # (B, 1, 1, H, W)

        def of(t: Tensor) -> Tensor:
            return t.gather(1, chosen.expand(-1, 1, t.shape[2], -1, -1))

        mean, log_scale, pairs = of(mean), of(log_scale), of(pairs)
        noise = temperature * log_scale[:, 0].exp() * u[:, self.components :].logit()
        v = torch.zeros(b, c, h, w, dtype=torch.long, device=parameters.device)
        for i in range(c):
            x = self._means(mean, pairs, self.scaled(v.to(mean.dtype)))[:, 0, i] + noise[:, i]
            level = ((x + 1) / 2 * (self.grey_levels - 1)).round().clamp(0, self.grey_levels - 1)
            v[:, i] = level.nan_to_num(0).long()
        return v

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights (B, K, H, W), means and log-scales (B, K, C, H, W), and the weights of earlier channels (B, K, P, H, W)."""
        k, c = self.components, self.channels
        log_weight, rest = parameters.split([k, parameters.shape[1] - k], dim=1)
        mean, log_scale, pairs = rest.unflatten(1, (k, -1)).split([c, c, self.pairs], dim=2)
        return log_weight.log_softmax(1), mean, log_scale.clamp(min=LEAST_LOG_SCALE), pairs.tanh()

    def _means(self, mean: Tensor, pairs: Tensor, x: Tensor) -> Tensor:
        """(B, K, C, H, W), of which each channel's depends on the earlier channels of x (B, C, H, W)."""
        means, used = [mean[:, :, 0]], 0
        for i in range(1, self.channels):
            means.append(mean[:, :, i] + (pairs[:, :, used : used + i] * x[:, None, :i]).sum(2))
            used += i
        return torch.stack(means, dim=2)
