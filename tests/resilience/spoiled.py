"""Trainings in which something is not finite at one step."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch

from glow.bijections import ActNorm
from glow.data.digits import Digits
from glow.data.toy import Toy
from glow.resilience import NonFiniteGuard
from glow.training import Initialize, MaximumLikelihood

IMAGES = {
    "_target_": "glow.flows.Glow",
    "event_shape": [1, 8, 8],
    "grey_levels": 17,
    "depth": 2,
    "width": 8,
    "levels": 1,
}
POINTS = {"_target_": "glow.flows.RealNVP", "event_shape": [2], "layers": 2, "hidden": 8}
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False, "max_epochs": 1,
}  # fmt: skip
STEP = 3
"""The optimizer step that goes wrong."""


def trained(module: MaximumLikelihood, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    torch.manual_seed(0)
    data: L.LightningDataModule = (
        Digits(name="digits", shape=[1, 8, 8], grey_levels=17, batch_size=128)
        if module.flow.grey_levels
        else Toy(
            kind="two_moons", noise=0.1, train_size=400, test_size=9, name="moons", shape=[2], batch_size=32
        )
    )
    guard = [] if any(isinstance(c, NonFiniteGuard) for c in callbacks) else [NonFiniteGuard()]
    trainer = L.Trainer(**{**QUIET, **options}, callbacks=[Initialize(), *guard, *callbacks])
    trainer.fit(module, data)
    return trainer


def images() -> MaximumLikelihood:
    torch.manual_seed(0)
    return MaximumLikelihood(None, partial(torch.optim.Adamax, lr=2e-3), model=IMAGES)


def points() -> MaximumLikelihood:
    torch.manual_seed(0)
    return MaximumLikelihood(None, partial(torch.optim.Adam, lr=2e-3), model=POINTS)


class Inject(L.Callback):
    """A fault in step ``STEP``; remembers weights and optimizer state before and after every step."""

    def __init__(self, at: tuple[int, ...] = (STEP,)) -> None:
        self.at = at
        self.states: list[dict[str, Any]] = []

    def due(self, trainer: L.Trainer) -> bool:
        return trainer.global_step in self.at

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            moments = trainer.optimizers[0].state_dict()["state"]
            self.states.append(
                {
                    "weights": [p.detach().clone() for p in module.parameters()],
                    "moments": [
                        v.clone() for s in moments.values() for v in s.values() if isinstance(v, torch.Tensor)
                    ],
                    "lr": trainer.optimizers[0].param_groups[0]["lr"],
                }
            )


class InBatch(Inject):
    """In the first batch of the step."""

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if self.due(trainer) and batch_idx % trainer.accumulate_grad_batches == 0:
            batch[0][5, 1] = math.nan


class InWeight(Inject):
    def on_train_batch_start(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if self.due(trainer):
            next(m for m in module.modules() if isinstance(m, ActNorm)).shift.data[1, 0] = math.inf


class InGradient(Inject):
    """As if the derivative had overflown: before the devices share it."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.inf if self.due(trainer) else gradient

        next(iter(module.parameters())).register_hook(spoil)


class InLayer(Inject):
    """A layer whose output overflows, of weights and batches that are finite."""

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        layer = module.flow.bijection.get_submodule("steps.0.network.2")
        layer.register_forward_hook(lambda m, x, y: y * math.inf if self.due(trainer) else y)


MAKE: dict[type[Inject], Callable[..., MaximumLikelihood]] = {
    InBatch: points, InWeight: images, InGradient: images, InLayer: points,
}  # fmt: skip
MESSAGES = {
    InBatch: r"the loss is not finite at step 3: batch \d of the epoch holds nan in example 5 of 3\d .*data is at fault",
    InWeight: r"the loss is not finite at step 3: weight flow\.\S+\.shift holds inf at \[1, 0\]; .*optimizer\.lr",
    InGradient: r"the gradient is not finite at step 3: that of flow\.\S+ holds (nan|inf); ",
    InLayer: r"the loss is not finite at step 3: the output of flow\.bijection\.steps\.0\.network\.2 is not finite; ",
}
