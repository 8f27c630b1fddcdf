"""A whole training step as one CUDA graph: forward, backward and update, launched at once instead of kernel by kernel.

``compile=graph``. The step is device work only: no value is looked at by the host, nothing is copied between host and device,
and no shape depends on values (``tests/training/test_without_values.py`` runs it on tensors without values). So a step that is not
finite is undone by the device, and ``NonFiniteGuard`` hears of it when it asks.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from glow.bijections.scales import record_scales
from glow.resilience.lightning_internals import find_callback
from glow.resilience.nonfinite import NonFiniteGuard
from glow.training.replay import Replays, no_gpu, possible


class Step(NamedTuple):
    """What a training step leaves behind: the losses (B,), the norm of the gradient, whether it was finite (scalars)."""

    losses: Tensor
    norm: Tensor
    finite: Tensor


class WholeStep:
    """Losses, gradients, clipping and update of a step, all on the device.

    Args:
        module: has ``loss(batch, noise)``.
        optimizer: of its parameters.
        clip: clips their gradients.
        on_nonfinite: what a step does whose gradient is not finite: ``skip`` changes neither weights nor the optimizer's state;
            ``stop`` neither, and no step after it does; None updates.
    """

    def __init__(
        self,
        module: Any,
        optimizer: torch.optim.Optimizer,
        clip: Callable[[], object] = lambda: None,
        on_nonfinite: str | None = None,
    ) -> None:
        self._module, self._optimizer, self._clip, self._on_nonfinite = module, optimizer, clip, on_nonfinite
        device = next(module.parameters()).device
        self._halted = torch.zeros((), dtype=torch.bool, device=device)
        self._rates = [torch.tensor(float(g["lr"]), device=device) for g in optimizer.param_groups]

    def set_rates(self) -> None:
        """Take the optimizer's present learning rates, before a replay."""
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    def __call__(self, noise: Tensor | None, *batch: Tensor) -> Step:
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._module.loss(batch, noise)
        with torch.autocast(batch[0].device.type, enabled=False):
            losses.mean().backward()
            gradients = [p.grad for p in self._module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            finite = norm.isfinite() & losses.detach().isfinite().all()
            self._clip()
            with capturable(self._optimizer, self._rates):
                if self._on_nonfinite is None:
                    self._optimizer.step()
                else:
                    update_where(finite & ~self._halted, self._optimizer)
            if self._on_nonfinite == "stop":
                self._halted.logical_or_(~finite)
        return Step(losses.detach(), norm, finite)


@torch.no_grad()
def update_where(good: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """``optimizer.step()``, undone in weights and state, on their device, where ``good``, a scalar, is false."""

    def tensors() -> list[Tensor]:
        weights = [p for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        state = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
        return [t for t in weights + state if t.device == good.device]

    before = {id(t): t.clone() for t in tensors()}
    optimizer.step()
    for t in tensors():
        was = before[id(t)] if id(t) in before else torch.zeros_like(t)  # from which every state begins
        torch.where(good, t, was, out=t)


@contextmanager
def capturable(optimizer: torch.optim.Optimizer, rates: Sequence[Tensor]) -> Iterator[None]:
    """A context in which an optimizer takes its learning rates from tensors, and counts its steps on a GPU.

    Outside, the groups are plain: checkpoints do not depend on ``compile``.
    """
    groups = optimizer.param_groups
    plain: list[dict[str, Any]] = [{k: g[k] for k in ("lr", "capturable") if k in g} for g in groups]
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
        if "capturable" in group:
            group["capturable"] = group["capturable"] or rate.is_cuda
    for parameter, state in optimizer.state.items():
        if torch.is_tensor(state.get("step")) and state["step"].device != parameter.device:
            state["step"] = state["step"].to(parameter.device)
    try:
        with warnings.catch_warnings():  # the steps that warm up are meant to be without a capture
            warnings.filterwarnings("ignore", ".*graph capture")
            yield
    finally:
        for group, values in zip(groups, plain, strict=True):
            group.update(values)


def obstacle(trainer: L.Trainer) -> str | None:
    """Why a run cannot replay its training steps; None if it can."""
    if why := no_gpu(trainer.strategy.root_device):
        return why
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        return f"the gradients are shared by {type(trainer.strategy).__name__}, whose hooks run on the host"
    if trainer.accumulate_grad_batches > 1:
        return f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} makes several batches one step"
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        return f"the gradient scaler of trainer.precision={trainer.precision} decides on the host"
    return None


class ReplayedSteps:
    """The training steps of a run; calling it is one of them."""

    def __init__(self, trainer: L.Trainer, module: Any) -> None:
        optimizer = trainer.optimizers[0]
        value, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
        guard = find_callback(trainer, NonFiniteGuard)
        self._step = WholeStep(
            module,
            optimizer,
            lambda: module.clip_gradients(optimizer, value, algorithm) if value else None,
            guard.action if guard else None,
        )
        self._replays = Replays(self._step)
        self.last: Step | None = None
        """What the last step left behind."""

    @classmethod
    def of(cls, trainer: L.Trainer, module: Any) -> "ReplayedSteps | None":
        """Those of a run; None, after a warning, if it cannot replay them."""
        return cls(trainer, module) if possible(obstacle(trainer), "training") else None

    def __call__(self, batch: Sequence[Tensor], noise: Tensor | None) -> Step:
        self._step.set_rates()
        self.last = Step(*self._replays(noise, *batch))
        return self.last


def replayed_loss(trainer: L.Trainer, module: Any) -> Replays | None:
    """``module.loss`` as a function of noise and batch, for one pass over data; None if the run cannot replay it.

    It gives the losses (B,) and, of a flow that records them, the extremes of its scales, for ``add_scales``.
    """
    if obstacle(trainer):
        return None

    def loss(noise: Tensor | None, *batch: Tensor) -> tuple[Tensor, ...]:
        with record_scales(module.flow) as scales:  # a replay does not run the Python that records
            losses = module.loss(batch, noise)
        return losses, *(t for t in (scales.smallest, scales.largest) if t is not None)

    return Replays(loss)
