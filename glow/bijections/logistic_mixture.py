"""The distribution function of a mixture of logistics, as an elementwise map."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.bijections.elementwise import Affine, Elementwise, tanh_log_scale
from glow.errors import check_positive


@dataclass(frozen=True)
class LogisticMixture(Elementwise):
    r"""A map that can leave several modes, then an affine one (Ho et al. 2019, section 3.2, equation 14).

    .. math:: y = \sigma^{-1}\Big(\sum_k \pi_k \, \sigma\big((x - \mu_k) / s_k\big)\Big), \qquad z = \mathrm{Affine}(y)

    where sigma is the logistic function, the distribution function of a logistic. Scales are bounded in both directions, by
    ``tanh_log_scale``. Where the parameters are zero, the means are spread evenly, so that the components differ in training.

    Its inverse has no formula: Newton's method, and bisection where its steps do not shrink, between the quantiles of the
    single components, where that of the mixture lies. So every inverse is finite. ``min_scale`` does not bound how steep it is:
    between narrow components far from each other the slope of y is next to nothing.

    Args:
        components: K; there are 3K + 2 parameters: shift and raw scale of ``Affine``, then K logits of pi, K means,
            K raw scales.
        min_scale: that of ``Affine``.

    >>> mixture = LogisticMixture(components=4)
    >>> x, h = torch.tensor([0.5, -3.0]), torch.randn(2, mixture.parameters)
    >>> z, log_slope = mixture.forward(x, h)
    >>> torch.allclose(mixture.inverse(z, h)[0], x, atol=1e-4)
    True
    """

    components: int = 8
    min_scale: float = 0.0

    SPREAD: ClassVar[float] = 0.25
    """The means that zero stands for go from minus to plus this."""
    STEPS: ClassVar[int] = 30
    """Of the inverse: enough halvings for float32."""

    def __post_init__(self) -> None:
        check_positive("components", self.components, integer=True)
        self._affine  # checks min_scale  # noqa: B018

    @property
    def parameters(self) -> int:
        return 3 * self.components + 2

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, log_slope = self._mixture(h).logit(x)
        z, log_scale = self._affine.forward(y, h[..., :2])
        return z, log_slope + log_scale

    def inverse(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        mixture = self._mixture(h)
        y, log_scale = self._affine.inverse(z, h[..., :2])
        with torch.no_grad():
            quantiles = mixture.mean + mixture.log_scale.exp() * y[..., None]
            low, high = quantiles.amin(-1), quantiles.amax(-1)
            x, last = 0.5 * (low + high), high - low
            for _ in range(self.STEPS):
                found, log_slope = mixture.logit(x)
                high, low = torch.where(found > y, x, high), torch.where(found > y, low, x)
                newton = x + (y - found) * (-log_slope).exp()
                # Halving steps end every cycle that Newton's method may fall into.
                good = (newton > low) & (newton < high) & ((newton - x).abs() < 0.5 * last)
                following = torch.where(good, newton, 0.5 * (low + high))
                x, last = following, (following - x).abs()
        found, log_slope = mixture.logit(x)
        # A last step, by which derivatives are those of the inverse.
        x = x + (y - found) * (-log_slope.detach()).exp()
        return x, log_scale - mixture.logit(x)[1]

    @property
    def _affine(self) -> Affine:
        return Affine(min_scale=self.min_scale)

    def _mixture(self, h: Tensor) -> "_Mixture":
        logits, mean, raw = h[..., 2:].split(self.components, dim=-1)
        start = torch.linspace(-self.SPREAD, self.SPREAD, self.components, device=h.device, dtype=h.dtype)
        return _Mixture(logits.log_softmax(-1), mean + start, tanh_log_scale(raw))


class _Mixture(NamedTuple):
    """Of every value, (..., K)."""

    log_share: Tensor
    mean: Tensor
    log_scale: Tensor

    def logit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of the distribution function at x (...), and the logarithm of its derivative."""
        v = (x[..., None] - self.mean) * (-self.log_scale).exp()
        log_below = F.logsigmoid(v)
        log_above = log_below - v
        below = (self.log_share + log_below).logsumexp(-1)
        above = (self.log_share + log_above).logsumexp(-1)
        density = (self.log_share + log_below + log_above - self.log_scale).logsumexp(-1)
        return below - above, density - below - above
