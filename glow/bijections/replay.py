"""The training step of a level as CUDA graphs, for which the host need not launch thousands of kernels."""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import Tensor

from glow.bijections.fused import Settings, Steps, backward_steps, forward_steps, inverse_of


class Replay:
    """``forward_steps`` and ``backward_steps`` on inputs of one shape, recorded once and replayed.

    What the backward pass needs lies in memory that the next forward pass overwrites, and stays allocated.
    """

    WARM_UP = 2

    def __init__(self, x: Tensor, steps: Steps, settings: Settings) -> None:
        self.x, self.steps = x.clone(), Steps(*(t.clone() for t in steps))
        self.inverses = None if settings.recompute == "none" else inverse_of(steps.matrix)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.WARM_UP):  # compiles and chooses kernels
                z, total, _, kept = forward_steps(self.x, self.steps, settings, keep=True, watch=False)
                backward_steps(z, total, z, self.steps, self.inverses, kept, settings)
            del z, total, kept
        torch.cuda.current_stream().wait_stream(stream)
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._forward):
            self.z, self.total, _, kept = forward_steps(self.x, self.steps, settings, keep=True, watch=False)
        self.g, self.g_total = torch.zeros_like(self.z), torch.zeros_like(self.total)
        with torch.cuda.graph(self._backward, pool=self._forward.pool()):
            self.gradients = backward_steps(
                self.g, self.g_total, self.z, self.steps, self.inverses, kept, settings
            )
        self._kept = kept
        self.user: Any = None

    def forward(self, x: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """z and summed log-scales."""
        torch._foreach_copy_([self.x, *self.steps], [x, *steps])
        self._forward.replay()
        return self.z.clone(), self.total.clone()

    def backward(self, g: Tensor, g_total: Tensor) -> list[Tensor]:
        """What ``backward_steps`` returns."""
        self.g.copy_(g)
        self.g_total.copy_(g_total)
        if self.inverses is not None:
            self.inverses.copy_(inverse_of(self.steps.matrix))
        self._backward.replay()
        return [t.clone() for t in self.gradients]


class Loan:
    """The right to use a ``Replay`` until the backward pass is done, or was given up."""

    def __init__(self, replay: Replay) -> None:
        self.replay: Replay | None = replay
        self.forward = replay.forward

    def backward(self, g: Tensor, g_total: Tensor) -> list[Tensor]:
        """That of the replay, once."""
        if self.replay is None:
            raise RuntimeError("a compiled flow can be differentiated once per forward pass")
        replay, self.replay = self.replay, None
        replay.user = None
        return replay.backward(g, g_total)


class Replays:
    """The replay of a level, for the first shape that it is asked for."""

    def __init__(self) -> None:
        self._replay: Replay | None = None
        self._key: Any = None

    def free(self, x: Tensor, steps: Steps, settings: Settings) -> Loan | None:
        """A replay for these shapes and dtypes, or None if it is in use, or made for others."""
        key = (settings, *((t.shape, t.dtype, t.device) for t in (x, *steps)))
        if self._key is None:
            self._key, self._replay = key, Replay(x, steps, settings)
        if (
            self._replay is None
            or key != self._key
            or (self._replay.user and self._replay.user() is not None)
        ):
            return None
        loan = Loan(self._replay)
        self._replay.user = ref(loan)
        return loan
