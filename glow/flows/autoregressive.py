"""Autoregressive flows of vectors, in either direction."""

from collections.abc import Sequence

import torch

from glow.bijections import Affine, Autoregressive, Bijection, Elementwise, Inverse
from glow.flows.flow import Flow
from glow.flows.vectors import BASES, chain, check_vectors
from glow.networks import MADE


def autoregressive_layers(
    dimensions: int, layers: int, hidden: int, hidden_layers: int, elementwise: Elementwise, context: int = 0
) -> list[Bijection]:
    """``layers`` maps, every other one from the last dimension to the first."""
    order = torch.arange(dimensions)[None]
    return [
        Autoregressive(
            MADE(
                dimensions,
                elementwise.parameters,
                hidden,
                hidden_layers,
                order.flip(1) if i % 2 else order,
                context=context,
            ),
            elementwise,
        )
        for i in range(layers)
    ]


class MAF(Flow):
    """Masked autoregressive flow (Papamakarios et al. 2017): densities in one pass a layer, samples in D.

    Args:
        event_shape: (D,), at least two dimensions.
        layers: number of affine autoregressive maps; the order of the dimensions turns round between them.
        hidden: size of the hidden layers of each map's ``MADE``.
        hidden_layers: number of those.
        base: a key of ``BASES``.
        components: of a mixture as the base.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> MAF((3,), layers=2).log_prob(torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int = 6,
        hidden: int = 64,
        hidden_layers: int = 2,
        base: str = "normal",
        components: int = 8,
    ) -> None:
        d = check_vectors("MAF", event_shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
        maps = autoregressive_layers(d, layers, hidden, hidden_layers, Affine("tanh"))
        super().__init__(chain(maps, event_shape, base), event_shape, base=BASES[base](d, components))


class IAF(Flow):
    """Inverse autoregressive flow (Kingma et al. 2016): samples in one pass a layer, densities of data in D.

    The arguments are those of ``MAF``, whose layers it turns round.

    >>> IAF((3,), layers=2).sample(4).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        layers: int = 6,
        hidden: int = 64,
        hidden_layers: int = 2,
        base: str = "normal",
        components: int = 8,
    ) -> None:
        d = check_vectors("IAF", event_shape, layers=layers, hidden=hidden, hidden_layers=hidden_layers)
        maps = autoregressive_layers(d, layers, hidden, hidden_layers, Affine("tanh"))
        turned = [Inverse(m) for m in maps]
        super().__init__(chain(turned, event_shape, base), event_shape, base=BASES[base](d, components))
