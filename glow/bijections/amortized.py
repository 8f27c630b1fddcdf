"""Maps of few numbers, which a context may decide."""

import torch
from torch import Tensor, nn

from glow.bijections.base import Bijection


class Amortized(Bijection):
    """A map whose numbers are one vector for all elements or, with a context, another one for each.

    Args:
        start: the numbers (P,) at first.
        context: size of a context (B, context) of which a linear layer makes what is added to them; 0 for none.
    """

    def __init__(self, start: Tensor, context: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(start)
        self.amortized = nn.Linear(context, len(start)) if context else None
        if self.amortized is not None:
            nn.init.normal_(self.amortized.weight, std=0.01)
            nn.init.zeros_(self.amortized.bias)

    def numbers(self, context: Tensor | None, dtype: torch.dtype) -> Tensor:
        """(1, P), or (B, P) with a context."""
        if self.amortized is None:
            return self.raw[None]
        assert context is not None, "this map is conditioned on a context"
        return self.raw[None] + self.amortized(context).to(dtype)
