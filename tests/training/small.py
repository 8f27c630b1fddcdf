"""Small modules, data and trainers, built without Hydra."""

from functools import partial
from typing import Any

import lightning as L
import torch

from glow.data import Digits, Toy
from glow.training import BothKL, Initialize, MaximumLikelihood, ReverseKL, warmup

GLOW = {"_target_": "glow.flows.Glow", "event_shape": [1, 8, 8], "grey_levels": 17, "depth": 2, "width": 16}
REALNVP = {"_target_": "glow.flows.RealNVP", "event_shape": [2], "layers": 2, "hidden": 8}
ENERGY = {"_target_": "glow.data.Toy", "kind": "energy_2", "noise": 0.1}
SMALL: dict[str, Any] = {  # glow_small's parts
    "_target_": "glow.flows.Glow", "event_shape": [1, 4, 4], "grey_levels": 17, "depth": 1, "width": 8, "min_scale": 0.1,
    "gaussianize": True, "noise_width": 4, "position": True, "class_conditional": True, "classes": 10,
}  # fmt: skip
ADAMAX = partial(torch.optim.Adamax, lr=2e-3)
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


def digits(**options: Any) -> Digits:
    return Digits(**{"name": "digits", "shape": [1, 8, 8], "grey_levels": 17, "batch_size": 128, **options})


def points(**options: Any) -> Toy:
    sizes = {"train_size": 400, "test_size": 9, "batch_size": 32}
    return Toy(**{"kind": "energy_2", "noise": 0.1, "name": "energy_2", "shape": [2], **sizes, **options})


def of_digits(**options: Any) -> MaximumLikelihood:
    L.seed_everything(0, verbose=False)
    model = {**GLOW, **options.pop("changed", {})}
    return MaximumLikelihood(None, ADAMAX, partial(warmup, warmup_epochs=0.2), model=model, **options)


def of_points(**options: Any) -> MaximumLikelihood:
    L.seed_everything(0, verbose=False)
    return MaximumLikelihood(None, partial(torch.optim.Adam, lr=2e-3), model=REALNVP, **options)


def of_energy(**options: Any) -> ReverseKL:
    L.seed_everything(0, verbose=False)
    optimizer = partial(torch.optim.Adam, lr=2e-3)
    return ReverseKL(None, optimizer, **{"model": REALNVP, "dataset": ENERGY, **options})


def of_both(**options: Any) -> BothKL:
    L.seed_everything(0, verbose=False)
    optimizer = partial(torch.optim.Adam, lr=2e-3)
    return BothKL(None, optimizer, **{"model": REALNVP, "dataset": ENERGY, **options})


def fit(
    module: L.LightningModule,
    *callbacks: L.Callback,
    data: L.LightningDataModule | None = None,
    initialize: bool = True,
    ckpt_path: Any = None,
    **options: Any,
) -> L.Trainer:
    first = [Initialize()] if initialize else []
    trainer = L.Trainer(**{**QUIET, "max_epochs": 1, **options}, callbacks=[*first, *callbacks])
    trainer.ckpt_path = ckpt_path
    trainer.fit(module, data or (digits() if module.flow.grey_levels else points()), weights_only=True)
    return trainer
