"""A few steps of training."""

import torch
from torch import Tensor

from glow.flows.flow import Flow


def losses_of(flow: Flow, x: Tensor, lr: float = 1e-2, steps: int = 15) -> list[float]:
    """Train on one batch of integers, with the same noise at every step: the loss before each, nats."""
    optimizer = torch.optim.Adamax(flow.parameters(), lr)
    noise, losses = torch.rand(x.shape), []
    for _ in range(steps):
        loss = -flow.log_prob(x, noise=noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
