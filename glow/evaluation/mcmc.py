"""Markov chains that follow a log-density by its gradient, n at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glow.bijections.base import sum_event

Density = Callable[[Tensor], Tensor]
"""A log-density in nats, up to a constant: (n, D) -> (n,)."""


class State(NamedTuple):
    """Where n chains are (n, D), the log-density there (n,) and its gradient (n, D)."""

    at: Tensor
    log_density: Tensor
    gradient: Tensor


def move(
    density: Density, state: State, step: Tensor, leapfrogs: int, generator: torch.Generator
) -> tuple[State, Tensor]:
    """One step of Hamiltonian Monte Carlo; with a single leapfrog, of the Metropolis-adjusted Langevin algorithm.

    ``step`` (n, D) or (n, 1) is the length of a leapfrog. Also returns the probabilities of acceptance (n,).
    """
    momentum = random(torch.randn, state.at.shape, generator, state.at)
    before = state.log_density - 0.5 * sum_event(momentum.square())
    new = state
    momentum = momentum + 0.5 * step * new.gradient
    for i in range(leapfrogs):
        new = state_at(density, new.at + step * momentum)
        momentum = momentum + (1.0 if i < leapfrogs - 1 else 0.5) * step * new.gradient
    change = new.log_density - 0.5 * sum_event(momentum.square()) - before
    accepted = torch.where(new.log_density.isfinite() & ~change.isnan(), change.clamp(max=0).exp(), 0.0)
    taken = random(torch.rand, accepted.shape, generator, accepted) < accepted
    pairs = zip(new, state, strict=True)
    return State(*(torch.where(taken.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs)), accepted


def state_at(density: Density, at: Tensor) -> State:
    """The state of chains that are ``at`` (n, D)."""
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        log_density = density(at)
        (gradient,) = torch.autograd.grad(log_density.sum(), at)
    return State(at.detach(), log_density.detach(), gradient)


def adapted(size: Tensor, accepted: Tensor, target: float, i: int) -> Tensor:
    """Step sizes (n, 1) after step ``i``: larger where more than the target was accepted; quickly at first."""
    return size * ((0.2 + 0.5 * math.exp(-i / 5)) * (accepted - target)).exp()[:, None]


def random(
    draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator, like: Tensor
) -> Tensor:
    """Drawn where the generator is, so that one of the CPU gives the same on every device."""
    return draw(*shape, generator=generator, device=generator.device).to(like.device, like.dtype)
