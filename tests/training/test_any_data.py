"""The callbacks with a LightningDataModule that is not one of ours."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from glow.errors import UsageError
from glow.resilience import BestCheckpoint, LastCheckpoint, NonFiniteGuard, StopOnSignal
from glow.training import EMA, Initialize, Pictures, SmallestScale, Throughput, TimeEstimate

from .small import QUIET, fit, of_digits, of_points


class Plain(L.LightningDataModule):
    """Shuffled loaders and nothing else."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def setup(self, stage: str) -> None:
        source = torch.Generator().manual_seed(0)
        images = len(self.shape) == 3
        x = (
            torch.randint(17, (300, *self.shape), generator=source).byte()
            if images
            else torch.randn(300, 2, generator=source)
        )
        self.train, self.val = (TensorDataset(part) for part in (x[:200], x[200:]))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, 32, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, 32)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2,)], ids=["images", "points"])
def test_all_callbacks(tmp_path: Path, shape: tuple[int, ...]) -> None:
    module = of_digits(changed={"depth": 1, "width": 4}) if len(shape) == 3 else of_points()
    callbacks = [
        Initialize(64), EMA(), Pictures(str(tmp_path), n=4), SmallestScale(), Throughput(), TimeEstimate(),
        StopOnSignal(), NonFiniteGuard(), BestCheckpoint(str(tmp_path)), LastCheckpoint(str(tmp_path)),
    ]  # fmt: skip
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = fit(
        module, *callbacks, data=Plain(shape), initialize=False, enable_checkpointing=True, logger=logger, max_epochs=2
    )  # fmt: skip
    assert trainer.global_step == 14
    assert len(list(tmp_path.glob("step_*.png"))) == 2
    assert {"best.ckpt", "last.ckpt"} <= {p.name for p in tmp_path.iterdir()}


def test_the_initialization_is_that_of_the_seed_and_touches_no_global_random_numbers() -> None:
    states = []
    for i in range(2):
        module, data = of_digits(), Plain((1, 8, 8))
        torch.manual_seed(i)
        before = torch.get_rng_state()
        trainer = L.Trainer(**QUIET, max_epochs=0)
        data.setup("fit")
        trainer.datamodule = data  # type: ignore[attr-defined]
        Initialize().setup(trainer, module, "fit")
        assert torch.equal(torch.get_rng_state(), before)
        states.append([p.detach().clone() for p in module.flow.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_without_a_data_module() -> None:
    x = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    trainer = L.Trainer(**QUIET, max_epochs=1, callbacks=[Initialize()])
    with pytest.raises(UsageError, match="initialized from a LightningDataModule"):
        trainer.fit(of_digits(), DataLoader(TensorDataset(x), 32))


def test_a_resumed_run_is_not_initialized_from_data(tmp_path: Path) -> None:
    """Neither with averaged weights nor without, and the weights are those of the checkpoint."""
    fit(of_digits(), EMA(), LastCheckpoint(str(tmp_path)), enable_checkpointing=True, max_epochs=1)
    path = tmp_path / "last.ckpt"

    class Stop(L.Callback):
        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            stored = torch.load(path, weights_only=True)["current_model_state"]
            assert all(torch.equal(p, stored[name]) for name, p in module.named_parameters())
            assert module.flow.initialized

    class Untouched(Initialize):
        def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
            super().setup(trainer, pl_module, stage)
            assert not pl_module.flow.initialized

    fit(of_digits(), Untouched(), EMA(), Stop(), initialize=False, ckpt_path=path, max_epochs=2)
