"""NaN and infinity in the middle of training: what is named, what is kept, what a skipped step leaves alone."""

import math
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch

from glow.bijections import Repeated
from glow.data.toy import Toy
from glow.errors import NonFiniteError, UsageError
from glow.resilience import NonFiniteGuard
from glow.training import EMA, Initialize, MaximumLikelihood

from .spoiled import (
    MAKE,
    MESSAGES,
    QUIET,
    STEP,
    InBatch,
    InGradient,
    Inject,
    InLayer,
    InWeight,
    images,
    points,
    trained,
)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("fault", MESSAGES)
def test_stop_names_the_source(fault: type[Inject], accumulate: int) -> None:
    with pytest.raises(NonFiniteError, match=MESSAGES[fault]):
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
    with pytest.raises(NonFiniteError, match=MESSAGES[InWeight]):
        trained(images(), InWeight(), NonFiniteGuard("skip"))


def test_no_more_than_max_skipped() -> None:
    guard = NonFiniteGuard("skip", max_skipped=2)
    message = r"at step 6, and 2 steps were skipped before \(max_skipped\): batch 6 of the epoch holds nan"
    with (
        pytest.warns(UserWarning, match=r"skipped \(2 of at most 2\)"),
        pytest.raises(NonFiniteError, match=message),
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
