"""Neural spline flows for vectors (Durkan et al. 2019)."""

from collections.abc import Sequence

from glow.bijections import ActNorm, Bijection, Spline
from glow.errors import check_positive
from glow.flows.autoregressive import autoregressive_layers
from glow.flows.flow import Flow
from glow.flows.vectors import BASES, alternating, chain, check_vectors


class NSF(Flow):
    """Rational-quadratic splines with linear tails, in couplings or autoregressive.

    An ``ActNorm`` comes first: it brings the data into the interval that the splines bend.

    Args:
        event_shape: (D,), at least two dimensions.
        layers: number of couplings, or of autoregressive maps.
        hidden: size of the hidden layers of each one's network.
        hidden_layers: number of those.
        bins: of a spline.
        bound: a spline bends [-bound, bound] and is the identity outside. Bins where no data is are wasted.
        autoregressive: not couplings but ``MADE``; samples then take D passes a layer.
        base: a key of ``BASES``.
        components: of a mixture as the base.
        context: length K of an observation that the density is conditioned on, the y of ``log_prob`` and ``sample``: the flow is
            then an amortized posterior (Greenberg et al. 2019). 0 for none.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> import torch
    >>> flow = NSF((2,), layers=2)
    >>> flow.initialize(torch.randn(100, 2))
    >>> flow.log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    >>> posterior = NSF((2,), layers=2, context=3)
    >>> posterior.initialize(torch.randn(100, 2), torch.randn(100, 3))
    >>> posterior.sample(5, y=torch.zeros(3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int = 6,
        hidden: int = 64,
        hidden_layers: int = 2,
        bins: int = 16,
        bound: float = 3.0,
        autoregressive: bool = False,
        base: str = "normal",
        components: int = 8,
        context: int = 0,
    ) -> None:
        d = check_vectors("NSF", event_shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
        check_positive("context", context, integer=True, zero=True)
        make = autoregressive_layers if autoregressive else alternating
        maps: Sequence[Bijection] = make(d, layers, hidden, hidden_layers, Spline(bins, bound), context)
        bijection = chain([ActNorm(d), *maps], event_shape, base)
        super().__init__(bijection, event_shape, base=BASES[base](d, components), observed=context)
