"""Whole training steps as graphs, replayed by a stand-in that does the work again."""

import math
import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from glow.bijections.scales import record_scales
from glow.data import Toy
from glow.errors import NonFiniteError, UsageError
from glow.resilience import NonFiniteGuard
from glow.training import EMA, MaximumLikelihood, SmallestScale, graphs, replay, warmup
from glow.training.graphs import obstacle, update_where
from glow.training.replay import Rerun

from .small import REALNVP, SMALL, digits, fit, of_points
from .stand_in import WHERE, Strict, capturable_on_a_cpu, count_captures, device_of


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "CudaGraphs", Rerun)
    monkeypatch.setattr(graphs, "obstacle", lambda trainer: None)


def weights(module: L.LightningModule) -> list[Tensor]:
    return [p.detach() for p in module.parameters()]


def replayed(module: MaximumLikelihood) -> MaximumLikelihood:
    module.graphs = True
    return module


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def close(a: list[Tensor], b: list[Tensor]) -> bool:
    """But for rounding: learning rates in tensors are float32."""
    return all(torch.allclose(x, y, rtol=1e-4, atol=2e-5) for x, y in zip(a, b, strict=True))


def made(graphs: bool, images: bool = False) -> MaximumLikelihood:
    torch.manual_seed(0)
    optimizer, schedule = partial(torch.optim.Adamax, lr=2e-3), partial(warmup, warmup_epochs=3 / STEPS)
    model = {**SMALL, "event_shape": [1, 8, 8]} if images else REALNVP
    module = MaximumLikelihood(None, optimizer, schedule, model=model)
    module.graphs = graphs
    return module


def data(images: bool, **sizes: int) -> Any:
    """``STEPS`` batches of two sizes."""
    if images:
        return digits(classes=10, val_size=0.1, batch_size=128)
    sizes = {"train_size": 410, "val_size": 10, "test_size": 9, "batch_size": 40, **sizes}
    return Toy(kind="two_moons", noise=0.1, name="m", shape=[2], **sizes)


STEPS = 11


class Captured(L.Callback):
    """How many graphs a run captured, at its end."""

    graphs: int | None = None

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.graphs = None if module.replayed is None else len(module.replayed._replays._captured)


@pytest.mark.parametrize(
    ("images", "options"),
    [(False, {"gradient_clip_val": 0.5, "max_epochs": 3}), (True, {"limit_train_batches": 6})],
    ids=["points", "images"],
)
def test_replayed_steps_train_as_others_do(stand_in: None, images: bool, options: dict[str, Any]) -> None:
    """With a schedule, averaged weights, and batches of two sizes, all of which the graphs must follow."""
    modules = made(False, images), made(True, images)
    ema, captured = (EMA(), EMA()), Captured()
    for module, average in zip(modules, ema, strict=True):
        trainer = fit(
            module, average, NonFiniteGuard(), captured, data=data(images), limit_val_batches=1, **options
        )
    assert close(weights(modules[0]), weights(modules[1]))
    assert close(weights(ema[0]._average_model), weights(ema[1]._average_model))
    assert captured.graphs == (1 if images else 2)
    group = trainer.optimizers[0].state_dict()["param_groups"][0]
    assert type(group["lr"]) is float
    assert group["capturable"] is False


@pytest.mark.parametrize("where", WHERE)
def test_validation_and_test_are_replayed(
    where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation with averaged weights, which are swapped with the others in place, and in batches of two sizes."""
    device = device_of(request, where)
    captures, figures = count_captures(monkeypatch, device), []
    capture = Strict.capture

    def only_results(self: Strict, work: Any) -> Any:
        """A replay runs no Python: what records scales outside of the work sees none of it."""
        replay = capture(self, work)

        def hidden() -> Any:
            with record_scales(module.flow):
                return replay()

        return hidden

    monkeypatch.setattr(Strict, "capture", only_results)
    for module in (made(False), made(True)):
        points = data(False, val_size=290, test_size=290)
        on = {"accelerator": "gpu" if device == "cuda" else device}
        callbacks = EMA(), SmallestScale()
        trainer = fit(module, *callbacks, data=points, max_epochs=2, limit_train_batches=1, **on)
        validated = [trainer.callback_metrics[f"val/{name}"].item() for name in ("nll", "smallest_scale")]
        [tested] = trainer.test(module, points, verbose=False)
        figures.append([*validated, tested["test/nll"]])
    assert figures[1] == pytest.approx(figures[0], rel=1e-4)
    assert len(captures) == 3
    assert module.replayed_loss is None


FFJORD = {
    "_target_": "glow.flows.FFJORD", "event_shape": [2], "hidden": 4, "hidden_layers": 1, "tolerance": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize(("model", "captured"), [(REALNVP, True), (FFJORD, False)], ids=["realnvp", "ffjord"])
def test_what_looks_at_values_trains_kernel_by_kernel(
    model: dict[str, Any], captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A differential equation's solver asks the host how to go on. A sentence says so, once, and training ends as without graphs."""
    capturable_on_a_cpu(monkeypatch)
    captures, modules = count_captures(monkeypatch, "cpu"), []
    for replayed in (False, True):
        torch.manual_seed(0)
        optimizer = partial(torch.optim.Adamax, lr=2e-3, capturable=True)
        modules.append(MaximumLikelihood(None, optimizer, model=model))
        modules[-1].graphs = replayed
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            fit(modules[-1], data=data(False), limit_train_batches=7, limit_val_batches=0)
    assert close(weights(modules[0]), weights(modules[1]))
    said = [str(w.message) for w in warned if "compile=graph" in str(w.message)]
    assert (len(captures), len(said)) == ((1, 0) if captured else (0, 1))
    assert all("it needs the host (aten._local_scalar_dense.default looks at a value)" in s for s in said)


@pytest.mark.parametrize("graphs_first", [False, True])
def test_replayed_steps_continue_a_run(stand_in: None, tmp_path: Any, graphs_first: bool) -> None:
    """From a checkpoint of a run without graphs, and the other way round."""
    whole, first, then = made(False), made(graphs_first), made(not graphs_first)
    fit(whole, data=data(False), max_epochs=2)
    fit(first, data=data(False)).save_checkpoint(tmp_path / "run.ckpt")
    fit(then, initialize=False, data=data(False), ckpt_path=tmp_path / "run.ckpt", max_epochs=2)
    assert close(weights(then), weights(whole))


class Spoil(L.Callback):
    """A picture that is not finite, or a weight, at one step; remembers the weights and the optimizer's state after each."""

    def __init__(self, what: str, at: int = 5) -> None:
        self.what, self.at = what, at
        self.after: list[list[Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.at:
            if self.what == "batch":
                batch[0][2, 1] = math.nan
            else:
                next(module.parameters()).data[0] = math.inf

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        state = [t for s in trainer.optimizers[0].state.values() for t in s.values()]
        self.after.append([t.detach().clone() for t in (*module.parameters(), *state)])


def test_stop_names_the_source_and_the_step_when_it_is_read(stand_in: None) -> None:
    spoil = Spoil("batch")
    message = "the loss is not finite at step 5: batch 5 of the epoch holds nan in example 2 of 31"
    with pytest.raises(NonFiniteError, match=message):
        fit(replayed(of_points()), NonFiniteGuard(), spoil, log_every_n_steps=10)
    assert len(spoil.after) >= 9
    assert not same(spoil.after[3], spoil.after[4])
    assert all(same(spoil.after[4], later) for later in spoil.after[5:])


def test_a_spoiled_weight_is_named(stand_in: None) -> None:
    with pytest.raises(NonFiniteError, match=r"at step 5: weight flow\.\S+ holds inf"):
        fit(replayed(of_points()), NonFiniteGuard("skip"), Spoil("weight"), log_every_n_steps=10)


@pytest.mark.parametrize("at", [0, 5], ids=["first", "replayed"])
def test_skip_leaves_weights_and_optimizer_alone_and_goes_on(stand_in: None, at: int) -> None:
    spoil, guard = Spoil("batch", at), NonFiniteGuard("skip")
    with pytest.warns(UserWarning, match=rf"at step {at} and is skipped \(1 of at most 10\): batch {at} of"):
        fit(replayed(of_points()), guard, spoil, log_every_n_steps=50)
    assert guard.skipped == 1
    if at:
        assert same(spoil.after[at - 1], spoil.after[at])
    assert all(t.isfinite().all() for t in spoil.after[at])
    assert not same(spoil.after[at], spoil.after[at + 1])


def test_a_gradient_that_is_finite_with_later_weights_is_said_to_be(stand_in: None) -> None:
    class Overflow(L.Callback):
        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            weight = next(iter(module.parameters()))
            weight.register_hook(lambda g: g * math.inf if trainer.global_step == 5 else g)

    message = (
        r"the gradient is not finite at step 5 and is skipped .*: it is finite with the weights after step 10"
    )
    with pytest.warns(UserWarning, match=message):
        fit(replayed(of_points()), NonFiniteGuard("skip"), Overflow(), log_every_n_steps=10)


def test_what_was_not_read_yet_is_in_the_checkpoint_and_counts(stand_in: None, tmp_path: Any) -> None:
    class Save(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    guard = NonFiniteGuard("skip")
    with pytest.warns(UserWarning, match="is skipped"):
        fit(replayed(of_points()), guard, Spoil("batch"), Save(), log_every_n_steps=50)
    saved = torch.load(tmp_path / "mid.ckpt", weights_only=True)["callbacks"]["NonFiniteGuard"]
    assert saved["skipped"] == guard.skipped == 1


def test_labels_out_of_range_end_in_the_same_sentence(stand_in: None) -> None:
    """The device makes NaN of them, and the guard repeats the step."""

    class Mislabel(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 5:
                batch[1][3] = 12

    with pytest.raises(UsageError, match="y must be one integer label from 0 to 9"):
        fit(made(True, images=True), Mislabel(), NonFiniteGuard(), data=data(True), limit_train_batches=7)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.Adamax, torch.optim.RMSprop])
def test_an_update_is_undone(make: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = make([weight], lr=0.1, **({"momentum": 0.9} if make is torch.optim.SGD else {}))
    states = []
    for gradient, good in ((math.nan, False), (1.0, True), (math.inf, False), (1.0, True)):
        weight.grad = torch.full((3,), gradient)
        update_where(torch.tensor(good), optimizer)
        states.append([weight.detach().clone(), *(t.clone() for t in optimizer.state[weight].values())])
    assert torch.equal(states[0][0], torch.ones(3))
    assert same(states[1], states[2])
    assert not same(states[1], states[3])
    assert all(t.isfinite().all() for state in states for t in state)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"device": "cpu"}, "CUDA graphs need a GPU"),
        ({"strategy": DDPStrategy}, "shared by DDPStrategy, whose hooks run on the host"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2"),
        ({"scaler": object()}, "the gradient scaler of trainer.precision=16-mixed"),
        ({}, None),
    ],
)
def test_why_a_run_cannot_be_replayed(changed: dict[str, Any], why: str | None) -> None:
    strategy = changed.pop("strategy", SingleDeviceStrategy)
    trainer: Any = SimpleNamespace(
        strategy=type(strategy.__name__, (strategy,), {"__init__": lambda self: None, "root_device": None})(),
        accumulate_grad_batches=changed.get("accumulate_grad_batches", 1),
        precision_plugin=SimpleNamespace(scaler=changed.get("scaler")),
        precision="16-mixed",
    )
    type(trainer.strategy).root_device = torch.device(changed.get("device", "cuda"))
    found = obstacle(trainer)
    assert (found is None) if why is None else (why in str(found))


def test_on_a_cpu_training_goes_on_with_a_sentence() -> None:
    captured = Captured()
    with pytest.warns(UserWarning, match="compile=graph: CUDA graphs need a GPU; training goes on without"):
        fit(replayed(of_points()), captured)
    assert captured.graphs is None
