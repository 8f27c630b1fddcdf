"""Labels, or an observation, as the context of a bijection."""

import torch
from torch import Tensor

from glow.errors import UsageError, looks_at_values


def one_hot(y: Tensor | None, n: int, classes: int, device: torch.device | None = None) -> Tensor | None:
    """One-hot vectors (n, classes) of labels, float32, zeros without a label; None of a flow without classes.

    Args:
        y: labels (n,), integers from 0 to classes-1, -1 for none; None for no labels at all.
        n: how many elements.
        classes: 0 for none.
        device: where the zeros are made that stand for no labels at all; a CUDA graph cannot copy them there.

    Raises:
        UsageError: labels out of range (NaN for them where values may not be looked at), of another number or type, or of a flow
            without classes.

    >>> one_hot(torch.tensor([1, -1]), 2, 3)
    tensor([[0., 1., 0.],
            [0., 0., 0.]])
    """
    if not classes:
        if y is not None:
            raise UsageError("y was given, but this flow is not class-conditional")
        return None
    if y is None:
        return torch.zeros(n, classes, device=device)
    outside = (y < -1) | (y >= classes)
    if y.is_floating_point() or tuple(y.shape) != (n,) or (looks_at_values() and outside.any()):
        raise UsageError(
            f"y must be one integer label from 0 to {classes - 1}, or -1 for none, per element ({n},), got "
            f"{y.dtype} of shape {tuple(y.shape)}, values {y.unique().tolist()[:10]}"
        )
    vectors = (y[:, None] == torch.arange(classes, device=y.device)).float()
    return vectors if looks_at_values() else vectors.masked_fill(outside[:, None], torch.nan)


def observations(y: Tensor | None, n: int, observed: int) -> Tensor:
    """What was observed beside each of n elements, (n, observed), from that or from one for all, (observed,).

    Raises:
        UsageError: there is none, or it has another shape.
    """
    if y is None or tuple(y.shape) not in ((n, observed), (observed,)):
        raise UsageError(
            f"y must be what was observed, ({n}, {observed}) or ({observed},) for all, got "
            f"{None if y is None else tuple(y.shape)}"
        )
    return y.expand(n, -1)
