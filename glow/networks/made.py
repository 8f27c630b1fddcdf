"""The masked autoencoder, which conditions every dimension on those before it."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedLinear(nn.Linear):
    """A linear layer without some of its weights.

    Args:
        masks: bool (M, out, in), False where there is no weight; M ways to leave weights out.
    """

    masks: Tensor

    def __init__(self, masks: Tensor) -> None:
        super().__init__(masks.shape[2], masks.shape[1])
        self.register_buffer("masks", masks)

    def forward(self, x: Tensor, order: int = 0) -> Tensor:
        """(B, in) -> (B, out) under the mask of that ``order``."""
        return F.linear(x, self.weight * self.masks[order], self.bias)


class MADE(nn.Module):
    """D dimensions -> ``parameters`` numbers for each, which depend on the dimensions before it alone.

    Every unit has a degree, the number of dimensions that it may see, and is connected to units of the layer below
    whose degree is no higher (Germain et al. 2015, section 4). It starts as the zero function.

    One set of weights serves several orders of the dimensions, and several ways to connect them (order- and connectivity-agnostic training there).

    Args:
        dimensions: D.
        parameters: outputs per dimension.
        hidden: size of each hidden layer.
        layers: number of hidden layers.
        orders: (M, D), the place of each dimension in each of M orders; that of the dimensions when absent.
        random_degrees: draw the degrees of hidden units anew for each of the M; else they are evenly spread.
        context: size of a context that every dimension may see; 0 for none.
    """

    orders: Tensor

    def __init__(
        self,
        dimensions: int,
        parameters: int,
        hidden: int = 64,
        layers: int = 2,
        orders: Tensor | None = None,
        random_degrees: bool = False,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.register_buffer("orders", torch.arange(dimensions)[None] if orders is None else orders.clone())
        m, most = len(self.orders), max(1, dimensions - 1)

        def hidden_degrees() -> Tensor:
            if random_degrees:
                return torch.randint(1, most + 1, (m, hidden))
            if (
                hidden < most
            ):  # spread over all of them, or the last dimensions would not see the ones before them
                return torch.linspace(1, most, hidden).round().long().expand(m, hidden)
            return (torch.arange(hidden) % most + 1).expand(m, hidden)

        degrees = [self.orders + 1, *(hidden_degrees() for _ in range(layers))]
        self.hidden = nn.ModuleList(
            MaskedLinear(above[:, :, None] >= below[:, None]) for below, above in pairwise(degrees)
        )
        seen = (self.orders + 1)[:, :, None] > degrees[-1][:, None]
        self.last = MaskedLinear(seen.repeat_interleave(parameters, dim=1))
        self.from_context = nn.Linear(context, hidden) if context else None
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)
        # The first dimension sees no hidden unit: the context reaches it, and all others, directly, too.
        self.context_to_last = nn.Linear(context, parameters * dimensions) if context else None
        if self.context_to_last is not None:
            nn.init.zeros_(self.context_to_last.weight)
            nn.init.zeros_(self.context_to_last.bias)

    def forward(self, x: Tensor, context: Tensor | None = None, order: int = 0) -> Tensor:
        """(B, D) -> (B, D, parameters), in that ``order``."""
        h = x
        for i, layer in enumerate(self.hidden):
            h = layer(h, order)
            if i == 0 and self.from_context is not None:
                h = h + self.from_context(context)
            h = F.relu(h)
        out = self.last(h, order)
        if self.context_to_last is not None:
            out = out + self.context_to_last(context)
        return out.unflatten(1, (x.shape[1], -1))
