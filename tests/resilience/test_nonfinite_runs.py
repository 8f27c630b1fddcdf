"""NaN and infinity across checkpoints, resumptions and devices."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from glow.commands.main import CONF
from glow.data.toy import Toy
from glow.errors import NonFiniteError
from glow.resilience import LastCheckpoint, NonFiniteGuard
from glow.training import EMA, Initialize, MaximumLikelihood

from .spoiled import (
    QUIET,
    InBatch,
    InWeight,
    images,
    points,
    trained,
)


def test_the_last_checkpoint_is_named_and_left_as_it_was(tmp_path: Path) -> None:
    last = LastCheckpoint(str(tmp_path))
    with pytest.raises(NonFiniteError, match=rf"at step 14: .*; the last checkpoint is .*{last.path.name}"):
        trained(images(), InWeight((14,)), last, max_epochs=2, enable_checkpointing=True)
    saved = torch.load(last.path, weights_only=True)
    assert saved["global_step"] == 11
    assert all(v.isfinite().all() for v in saved["state_dict"].values() if isinstance(v, torch.Tensor))


@pytest.mark.parametrize("callbacks", [[], [EMA()]], ids=["raw", "ema"])
def test_weights_spoiled_by_the_last_step_of_an_epoch_are_not_kept(
    tmp_path: Path, callbacks: list[L.Callback]
) -> None:
    class After(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            if trainer.current_epoch == 1:
                next(module.parameters()).data.fill_(math.nan)

    last = LastCheckpoint(str(tmp_path))
    with pytest.raises(
        NonFiniteError, match=r"weight flow\.\S+ holds nan at \[0.*\] after step 22; the last"
    ):
        trained(
            images(), After(), *callbacks, last, max_epochs=2, limit_val_batches=0, enable_checkpointing=True
        )
    assert torch.load(last.path, weights_only=True)["global_step"] == 11


def test_the_count_survives_a_resumption_without_hydra(tmp_path: Path) -> None:
    """Skip, stop, resume: what was skipped before counts, by LastCheckpoint and by Lightning's own checkpoints."""
    for kind in (LastCheckpoint, ModelCheckpoint):
        keep, folder = NonFiniteGuard("skip", max_skipped=2), tmp_path / kind.__name__
        saver = kind(str(folder)) if kind is LastCheckpoint else kind(str(folder), filename="last")
        with pytest.warns(UserWarning, match="is skipped"):
            trained(points(), InBatch((2,)), keep, saver, enable_checkpointing=True)
        again = NonFiniteGuard("skip", max_skipped=2)
        module, data = points(), Toy(
            kind="two_moons", noise=0.1, train_size=400, test_size=9, name="moons", shape=[2], batch_size=32
        )  # fmt: skip
        faults, options = InBatch((14, 15)), {**QUIET, "max_epochs": 2}
        trainer = L.Trainer(**options, callbacks=[Initialize(), again, faults])
        with (
            pytest.warns(UserWarning, match=r"skipped \(2 of at most 2\)"),
            pytest.raises(NonFiniteError, match="2 steps were skipped before"),
        ):
            trainer.fit(module, data, ckpt_path=folder / "last.ckpt", weights_only=True)
        assert again.skipped == 2


def test_the_count_is_told_and_survives_a_resumption(
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = [
        "experiment=two_moons", "model.layers=2", "callbacks.pictures=null", "callbacks.estimate=null",
        "dataset.train_size=600", "dataset.val_size=50", "dataset.test_size=50", "resilience.callbacks.nonfinite.action=skip", "trainer.log_every_n_steps=1",
    ]  # fmt: skip
    inject = InBatch((2, 7))
    monkeypatch.setattr(
        MaximumLikelihood,
        "on_train_batch_start",
        lambda self, batch, batch_idx: inject.on_train_batch_start(self.trainer, self, batch, batch_idx),
    )
    with pytest.warns(UserWarning, match="is skipped"):
        first = run(*tiny, "fit.max_steps=5")
    assert first["skipped"] == 1
    with pytest.warns(UserWarning, match=r"skipped \(2 of at most 10\)"):
        second = run(*tiny, "fit.max_steps=10")
    assert second["skipped"] == 2
    assert "skipped: 2 of these steps" in capsys.readouterr().out
    header, *rows = (tmp_path / "outputs/two_moons-realnvp/metrics.csv").read_text().splitlines()
    column = header.split(",").index("train/skipped")
    assert [r.split(",")[column] for r in rows if r.split(",")[column]][-1] == "2.0"


DRIVER = """
import math
from glow.commands.main import main
from glow.training import MaximumLikelihood

def spoil(self, batch, batch_idx):
    if self.trainer.global_step == 2 and self.trainer.global_rank == 1:
        batch[0][5, 1] = math.nan

MaximumLikelihood.on_train_batch_start = spoil
main("glow.commands.train:train", "train")
"""


@pytest.mark.slow
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_two_devices_decide_together(tmp_path: Path, action: str) -> None:
    """The fault is the second device's alone."""
    (tmp_path / "driver.py").write_text(DRIVER)
    result = subprocess.run(
        [
            sys.executable, "driver.py", "experiment=two_moons", "model.layers=2", "trainer.accelerator=cpu",
            "trainer.devices=2", "fit.max_steps=5", "callbacks.pictures=null", "callbacks.estimate=null",
            f"resilience.callbacks.nonfinite.action={action}", f"output_dir={tmp_path}/outputs",
        ],
        capture_output=True, text=True, timeout=200, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(CONF.parent)},
    )  # fmt: skip
    message = r"the loss is not finite at step 2.*: batch 2 of the epoch holds nan in example 5 of 12\d .*\(device 1\)"
    assert re.search(message, result.stderr), result.stderr
    if action == "stop":
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        results = json.loads((tmp_path / "outputs/two_moons-realnvp/results.json").read_text())
        assert (results["skipped"], results["steps"]) == (1, 5)
