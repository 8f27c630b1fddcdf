"""Matrices by orthogonalized momentum, the other parameters by an optimizer of torch."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from glow.errors import UsageError, check_positive

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of Jordan et al. 2024: five steps take singular values from 0.002 to 1 to between 0.7 and 1.2."""


def matrices(module: nn.Module) -> dict[nn.Parameter, int]:
    """The parameters that the modules inside say are matrices, and of how many of their last dimensions.

    A module says so by an attribute ``matrices``, from the parameter's name to that number: rows first, then what
    becomes the columns. Dimensions before them are a stack of matrices.
    """
    found = {}
    for part in module.modules():
        for name, dimensions in getattr(part, "matrices", {}).items():
            found[getattr(part, name)] = dimensions
    return found


def optimizer_of(module: nn.Module, make: Callable[..., torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """``make(parameters)``, with ``matrices=`` where its signature names these."""
    takes_matrices = "matrices" in inspect.signature(make).parameters
    return make(module.parameters(), **({"matrices": matrices(module)} if takes_matrices else {}))


def orthogonalize(stack: Tensor, steps: int = 5) -> Tensor:
    r"""Every matrix of a stack (..., rows, columns) with its singular values moved to about one.

    With X scaled to a norm below one, :math:`X \leftarrow a X + (b A + c A^2) X, A = X X^\top` (a Newton-Schulz iteration;
    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks").
    """
    a, b, c = NEWTON_SCHULZ
    tall = stack.shape[-2] > stack.shape[-1]
    x = stack.mT if tall else stack
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    r"""Muon for matrices (Jordan et al. 2024), another optimizer for the rest.

    .. math:: m \leftarrow \mu m + (1 - \mu) g, \qquad
        w \leftarrow w - \eta \sqrt{\max(1, rows / columns)} \, O((1 - \mu) g + \mu m)

    with O the orthogonal matrix near its argument (``orthogonalize``), so that a step moves all directions of a layer alike,
    not only those of the largest gradients. Stacked layers are orthogonalized at once.

    Both kinds of parameters are groups of this one optimizer, so that a learning-rate schedule acts on both.

    Args:
        params: what is trained, as every optimizer takes it.
        matrices: which of the parameters are matrices, see the function of that name.
        lr: learning rate of the matrices.
        momentum: mu.
        rest: makes the other parameters' optimizer.

    Raises:
        UsageError: a rate or momentum out of range.

    >>> from functools import partial
    >>> layer = nn.Linear(3, 2)
    >>> muon = Muon(layer.parameters(), {layer.weight: 2}, lr=0.1, rest=partial(torch.optim.Adamax, lr=0.01))
    >>> layer(torch.ones(1, 3)).sum().backward()
    >>> muon.step()
    >>> [group["lr"] for group in muon.param_groups]
    [0.1, 0.01]
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        matrices: Mapping[nn.Parameter, int],
        *,
        lr: float = 0.01,
        momentum: float = 0.95,
        rest: Callable[..., torch.optim.Optimizer],
    ) -> None:
        check_positive("optimizer.lr", lr, zero=True)
        check_positive("optimizer.momentum", momentum, zero=True)
        if momentum >= 1:
            raise UsageError(f"optimizer.momentum must be in [0, 1), got {momentum}")
        chosen = list(params)
        others = [p for p in chosen if p not in matrices]
        groups: list[dict[str, Any]] = []
        for dimensions in sorted({matrices[p] for p in chosen if p in matrices}):
            of = [p for p in chosen if matrices.get(p) == dimensions]
            groups.append({"params": of, "dimensions": dimensions})
        if not groups:
            raise UsageError(
                "Muon moves matrices, and no module of this model has any: take another optimizer, such as optimizer=adam"
            )
        super().__init__(groups, {"lr": lr, "momentum": momentum})
        self.rest = rest(others)
        self._own = len(self.param_groups)
        self.param_groups += self.rest.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups[: self._own]:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, **{k: group[k] for k in ("lr", "momentum", "dimensions")})
        # One state and one list of groups, which whoever loads a checkpoint replaces.
        self.rest.param_groups, self.rest.state = self.param_groups[self._own :], self.state
        self.rest.step()
        return loss

    def _move(
        self, p: nn.Parameter, grad: Tensor, lr: float | Tensor, momentum: float, dimensions: int
    ) -> None:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        state["momentum"].lerp_(grad, 1 - momentum)
        update = grad.lerp(state["momentum"], momentum).flatten(-dimensions + 1)
        # A GPU has its matrix units for bfloat16; the iteration corrects its own rounding.
        update = update.bfloat16() if p.device.type == "cuda" else update
        rows, columns = update.shape[-2:]
        moved = orthogonalize(update).to(p.dtype).reshape(p.shape)
        p.sub_(moved * (lr * max(1.0, rows / columns) ** 0.5))  # alpha= would wait for a rate on a GPU
