"""Markov chains that follow a log-density by its gradient, n at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from glow.bijections.base import sum_event
from glow.seeds import draw

LogDensity = Callable[[Tensor], Tensor]
"""A log-density in nats, up to a constant: (n, D) -> (n,)."""


class State(NamedTuple):
    """The state of n chains."""

    position: Tensor  # (n, D)
    log_density: Tensor  # (n,), there
    gradient: Tensor  # (n, D), of the log-density


def hmc_step(
    density: LogDensity, state: State, step: Tensor, leapfrogs: int, generator: torch.Generator
) -> tuple[State, Tensor]:
    """One step of Hamiltonian Monte Carlo; with a single leapfrog, of the Metropolis-adjusted Langevin algorithm.

    Args:
        density: what the chains follow.
        state: where they are.
        step: the length of a leapfrog, (n, D) or (n, 1).
        leapfrogs: how many there are.
        generator: the source of momenta and acceptances.

    Returns:
        The new state, and the probabilities with which each proposal was accepted (n,).
    """
    momentum = draw_like(state.position, torch.randn, generator)
    before = state.log_density - 0.5 * sum_event(momentum.square())
    new = state
    momentum = momentum + 0.5 * step * new.gradient
    for i in range(leapfrogs):
        new = state_at(density, new.position + step * momentum)
        momentum = momentum + (1.0 if i < leapfrogs - 1 else 0.5) * step * new.gradient
    change = new.log_density - 0.5 * sum_event(momentum.square()) - before
    accepted = torch.where(new.log_density.isfinite() & ~change.isnan(), change.clamp(max=0).exp(), 0.0)
    taken = draw_like(accepted, torch.rand, generator) < accepted
    pairs = zip(new, state, strict=True)
    return State(*(torch.where(taken.view(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs)), accepted


def state_at(density: LogDensity, position: Tensor) -> State:
    """The state of chains at a position (n, D)."""
    with torch.enable_grad():
        position = position.detach().requires_grad_()
        log_density = density(position)
        (gradient,) = torch.autograd.grad(log_density.sum(), position)
    return State(position.detach(), log_density.detach(), gradient)


def adapt_step(size: Tensor, accepted: Tensor, target: float, i: int) -> Tensor:
    """Step sizes (n, 1) after step ``i``: larger where acceptance was above the target; large changes at first only."""
    return size * ((0.2 + 0.5 * math.exp(-i / 5)) * (accepted - target)).exp()[:, None]


def draw_like(x: Tensor, sampler: Callable[..., Tensor], generator: torch.Generator) -> Tensor:
    """Random numbers of the shape, device and type of x, see ``glow.seeds.draw``."""
    return draw(sampler, *x.shape, generator=generator, device=x.device, dtype=x.dtype)
