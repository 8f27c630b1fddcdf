"""A program: trains on several processes and writes what each of them has, for ``test_ranks.py``.

python ranks.py FOLDER DEVICES [reversed] OVERRIDES...; with ``reversed`` the callbacks are listed the other way round.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from glow.commands.main import compose
from glow.commands.train import train
from glow.training import EMA


def digest(module: nn.Module) -> str:
    """Of all parameters and buffers, bit by bit."""
    sha = hashlib.sha256()
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


class Record(L.Callback):
    """Hashes after initialization and after every epoch; the losses of the batches, means over the processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashes: list[list[str]] = []
        self.losses: list[float] = []

    def _hash(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        averages = [c._average_model for c in trainer.callbacks if isinstance(c, EMA)]  # type: ignore[attr-defined]
        flow: Any = module.flow
        self.hashes.append([digest(m) for m in [flow, *averages] if m is not None])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hash(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any
    ) -> None:
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        self.losses.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._hash(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        record = {"hashes": self.hashes, "losses": self.losses}
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    folder, devices, overrides = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    order = -1 if "reversed" in overrides else 1
    overrides = [o for o in overrides if o != "reversed"]
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    real = L.Trainer.__init__

    def with_record(self: L.Trainer, **options: Any) -> None:
        real(self, **options | {"callbacks": [*options["callbacks"][::order], Record(folder)]})

    L.Trainer.__init__ = with_record  # type: ignore[method-assign, assignment]
    fixed = [f"output_dir={folder}", "trainer.accelerator=cpu", f"trainer.devices={devices}", "logger=none"]
    train(compose("train", [*fixed, *overrides]))
