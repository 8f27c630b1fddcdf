"""NaN and infinity in the middle of training: what is named, what is kept, what a skipped step leaves alone."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from glow.bijections import ActNorm, Repeated
from glow.commands.main import CONF
from glow.data.digits import Digits
from glow.data.toy import Toy
from glow.errors import NonFiniteError, UsageError
from glow.resilience import LastCheckpoint, NonFiniteGuard
from glow.training import EMA, Initialize, MaximumLikelihood

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
SAID = {
    InBatch: r"the loss is not finite at step 3: batch \d of the epoch holds nan in example 5 of 3\d .*data is at fault",
    InWeight: r"the loss is not finite at step 3: weight flow\.\S+\.shift holds inf at \[1, 0\]; .*optimizer\.lr",
    InGradient: r"the gradient is not finite at step 3: that of flow\.\S+ holds (nan|inf); ",
    InLayer: r"the loss is not finite at step 3: the output of flow\.bijection\.steps\.0\.network\.2 is not finite; ",
}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("fault", SAID)
def test_stop_names_the_source(fault: type[Inject], accumulate: int) -> None:
    with pytest.raises(NonFiniteError, match=SAID[fault]):
        trained(MAKE[fault](), fault(), accumulate_grad_batches=accumulate)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("fault", [InBatch, InGradient, InLayer])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_skip_leaves_weights_and_optimizer_alone(
    fault: type[Inject], accumulate: int, precision: str
) -> None:
    if precision == "bf16-mixed" and (accumulate == 2 or fault is InLayer):
        pytest.skip("one of each will do")
    module, inject, guard = MAKE[fault](), fault(), NonFiniteGuard("skip")
    with pytest.warns(UserWarning, match=r"at step 3 and is skipped \(1 of at most 10\): "):
        trainer = trained(
            module,
            inject,
            guard,
            EMA(),
            accumulate_grad_batches=accumulate,
            precision=precision,
            gradient_clip_val=1,
        )
    assert guard.skipped == 1
    before, after, later = inject.states[STEP - 1 : STEP + 2]
    for key in ("weights", "moments"):
        assert all(torch.equal(a, b) for a, b in zip(before[key], after[key], strict=True)), key
    assert not all(torch.equal(a, b) for a, b in zip(after["weights"], later["weights"], strict=True))
    assert trainer.global_step == len(inject.states), "a skipped step is a step"
    assert all(math.isfinite(state["lr"]) for state in inject.states)
    assert math.isfinite(trainer.callback_metrics[f"train/{module.unit}"]), "the mean is of the others"


def test_weights_cannot_be_skipped() -> None:
    with pytest.raises(NonFiniteError, match=SAID[InWeight]):
        trained(images(), InWeight(), NonFiniteGuard("skip"))


def test_no_more_than_max_skipped() -> None:
    guard = NonFiniteGuard("skip", max_skipped=2)
    said = r"at step 6, and 2 steps were skipped before \(max_skipped\): batch 6 of the epoch holds nan"
    with (
        pytest.warns(UserWarning, match=r"skipped \(2 of at most 2\)"),
        pytest.raises(NonFiniteError, match=said),
    ):
        trained(points(), InBatch((1, 4, 6)), guard)
    assert guard.skipped == 2


def test_a_step_of_a_level_is_named() -> None:
    """The steps of a Glow are computed together; the source is looked for one by one."""

    class Overflow(Inject):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
            if self.due(trainer):  # finite weights whose product is not
                step = next(m for m in module.flow.modules() if isinstance(m, Repeated)).step
                step.steps[2].network[4].bias.data[1] = 3e38
                step.steps[2].network[4].logs.data[1] = 3

    with pytest.raises(
        NonFiniteError,
        match=r"the output of flow\.bijection\.levels\.0\.steps\.1\.\S+ \(call 2\) is not finite",
    ):
        trained(images(), Overflow())


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


def test_validation() -> None:
    class Poison(L.Callback):
        def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
            next(module.parameters()).data.fill_(math.nan)

    with pytest.raises(
        NonFiniteError, match=r"validation loss is not finite after step 11: weight flow\.\S+ holds nan"
    ):
        trained(images(), Poison())


def test_without_the_guard_training_goes_on_and_the_mean_is_of_the_finite_losses() -> None:
    """As Lightning does: the weights are lost, and the losses before the fault are still counted."""
    torch.manual_seed(0)
    module, inject = points(), InGradient()
    data = Toy(
        kind="two_moons", noise=0.1, train_size=400, test_size=9, name="moons", shape=[2], batch_size=32
    )
    trainer = L.Trainer(**QUIET, callbacks=[Initialize(), inject])
    trainer.fit(module, data)
    assert len(inject.states) == trainer.global_step > STEP + 1
    assert not next(module.parameters()).isfinite().all()
    assert math.isfinite(trainer.callback_metrics["train/nll"])


class Plain(L.LightningModule):
    """Of another project: no losses by example, and nothing that repeats them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_a_module_of_another_project_is_guarded() -> None:
    data = Toy(
        kind="two_moons", noise=0.1, train_size=400, test_size=9, name="moons", shape=[2], batch_size=32
    )
    guard, module = NonFiniteGuard("skip"), Plain()
    trainer = L.Trainer(**QUIET, callbacks=[InBatch(), guard], limit_val_batches=0)
    with pytest.warns(
        UserWarning, match=r"at step 3 and is skipped \(1 of at most 10\): batch 3 of the epoch"
    ):
        trainer.fit(module, data)
    assert guard.skipped == 1
    assert all(p.isfinite().all() for p in module.parameters())


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


def test_data_that_spoils_the_initialization(monkeypatch: pytest.MonkeyPatch) -> None:
    load = Toy.load

    def spoiled(self: Toy, split: Any) -> Any:
        examples = load(self, split)
        assert examples is not None
        examples.x[:, 1] = math.nan
        return examples

    monkeypatch.setattr(Toy, "load", spoiled)
    nsf = {"_target_": "glow.flows.NSF", "event_shape": [2], "layers": 2, "hidden": 8}
    module = MaximumLikelihood(None, partial(torch.optim.Adam, lr=2e-3), model=nsf)
    with pytest.raises(
        NonFiniteError, match=r"(initialized from|batch 0 of the epoch) holds nan in example 0 of"
    ):
        trained(module)


@pytest.mark.parametrize("options", [{"action": "go on"}, {"max_skipped": -1}, {"max_skipped": 1.5}])
def test_settings(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        NonFiniteGuard(**options)


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
    said = r"the loss is not finite at step 2.*: batch 2 of the epoch holds nan in example 5 of 12\d .*\(device 1\)"
    assert re.search(said, result.stderr), result.stderr
    if action == "stop":
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        results = json.loads((tmp_path / "outputs/two_moons-realnvp/results.json").read_text())
        assert (results["skipped"], results["steps"]) == (1, 5)
