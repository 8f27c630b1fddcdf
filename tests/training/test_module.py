"""What happens inside training: loss, initialization, EMA, precision, failures."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from glow.bijections import ActNorm
from glow.evaluation.bits import evaluation_noise
from glow.flows import build
from glow.resilience import LastCheckpoint
from glow.training import EMA, Initialize, MaximumLikelihood, SmallestScale

from .small import GLOW, QUIET, digits, fit, of_digits


def trained(callbacks: list[L.Callback] | None = None, module: Any = None, **options: Any) -> tuple[Any, Any]:
    module = module or of_digits()
    return module, fit(module, *(callbacks or []), **options)


class Record(L.Callback):
    """The loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(outputs["loss"].item())


def test_the_loss_falls_and_the_means_are_those_of_all_examples() -> None:
    record = Record()
    module, trainer = trained([record], max_epochs=3)
    assert record.losses[-1] < record.losses[0] - 0.3
    data = trainer.datamodule
    x = data.arrays("val")[0]
    batches = list(data.val_dataloader())
    module.eval()
    with torch.no_grad():
        noise = [evaluation_noise(module.flow, len(b[0]), "val", 0, i) for i, b in enumerate(batches)]
        each = torch.cat([module.loss(b, u) for b, u in zip(batches, noise, strict=True)])
    assert len(each) == len(x) == 144
    assert trainer.callback_metrics["val/bpd"].item() == pytest.approx(each.mean().item(), rel=1e-5)


@pytest.mark.slow
def test_bits_per_dim_of_an_independent_gaussian_is_reached() -> None:
    """The loss is comparable with a model fitted by hand: it must beat independent Gaussians per pixel."""
    _, trainer = trained(max_epochs=25)
    data = trainer.datamodule
    train, val = (data.arrays(s)[0].double() + 0.5 for s in ("train", "val"))
    gaussian = torch.distributions.Normal(train.mean(0), train.std(0) + 0.3)
    baseline = -gaussian.log_prob(val).flatten(1).sum(1).mean() / (64 * math.log(2))
    assert trainer.callback_metrics["val/bpd"] < baseline - 0.3


class TestInitialization:
    def test_before_the_ema_copy(self) -> None:
        ema = EMA()
        module, _ = trained([ema], max_steps=1)
        average = ema._average_model.module.flow  # type: ignore[union-attr]
        assert average.initialized
        assert module.flow.initialized
        assert all((m.logs != 0).any() for m in average.modules() if isinstance(m, ActNorm))

    def test_the_same_on_every_device(self) -> None:
        """Only the seed and the weights matter, not the state of the global generator."""
        states = []
        for _ in range(2):
            module, data = of_digits(), digits()
            torch.manual_seed(len(states))
            trainer = L.Trainer(**QUIET, max_epochs=0, callbacks=[Initialize()])
            trainer.fit(module, data)
            states.append(module.flow.state_dict())
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0] if "extra" not in k)


class TestEMAInTraining:
    def test_validation_sees_the_average_and_training_the_raw_weights(self) -> None:
        seen: dict[str, torch.Tensor] = {}

        class Look(L.Callback):
            def on_validation_batch_start(self, trainer, module, *args) -> None:
                seen["val"] = next(module.parameters()).detach().clone()

            def on_train_batch_end(self, trainer, module, *args) -> None:
                seen["raw"] = next(module.parameters()).detach().clone()

        ema = EMA(decay=0.99)
        module, _ = trained([ema, Look()], max_epochs=2)
        average = next(ema._average_model.module.parameters())  # type: ignore[union-attr]
        assert torch.equal(seen["val"], average)
        assert not torch.equal(seen["raw"], average)
        assert torch.equal(next(module.parameters()), average), "after the fit, the module has the average"

    def test_an_interrupted_validation_does_not_exchange_them(self, tmp_path: Path) -> None:
        class Fail(L.Callback):
            raw: torch.Tensor

            def on_validation_batch_start(self, *args: Any) -> None:
                raise RuntimeError("power cut")

            def on_validation_start(self, trainer, module) -> None:
                self.raw = next(module.parameters()).detach().clone()

        fail, last, module = Fail(), LastCheckpoint(str(tmp_path)), of_digits()
        with pytest.raises(RuntimeError, match="power cut"):
            trained([fail, EMA(), last], module, enable_checkpointing=True)
        saved, name = torch.load(last.path, weights_only=True), next(iter(dict(module.named_parameters())))
        assert torch.equal(saved["current_model_state"][name], fail.raw)
        assert not torch.equal(saved["state_dict"][name], fail.raw)


class TestPrecision:
    @pytest.fixture(scope="class")
    def module(self) -> MaximumLikelihood:
        torch.manual_seed(0)
        return trained(max_epochs=6)[0].eval()

    def test_bf16_agrees_with_float32_within_002_bits_per_dim(self, module: MaximumLikelihood) -> None:
        x = load_digits_test()
        noise = torch.rand(x.shape)
        with torch.no_grad():
            full = module.loss((x,), noise)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                half = module.loss((x,), noise)
        assert half.dtype == torch.float32
        assert (half - full).abs().mean() < 0.02
        assert abs(half.mean() - full.mean()) < 0.02
        assert not torch.equal(half, full), "the networks should have run in bf16"

    def test_encode_decode_round_trips_under_bf16(self, module: MaximumLikelihood) -> None:
        x = load_digits_test()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module.flow.decode(module.flow.encode(x)), x)
            noise = torch.rand(x.shape)
            real = module.flow.dequantization(x, noise)[0]
            z, log_det = module.flow.bijection(real)
            back, inverse_log_det = module.flow.bijection.inverse(z)
        # A last float32 bit that flips in the conditioning half can flip a bf16 one: well below a grey level.
        torch.testing.assert_close(back, real, atol=0.2 / 17, rtol=0)
        torch.testing.assert_close(inverse_log_det, -log_det, atol=1e-2, rtol=1e-4)

    @pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
    def test_training_in_other_precisions(self, precision: str) -> None:
        record = Record()
        module, _ = trained([record], max_epochs=2, precision=precision)
        assert record.losses[-1] < record.losses[0]
        expected = torch.float64 if precision == "64-true" else torch.float32
        assert {p.dtype for p in module.parameters()} == {expected}


def load_digits_test() -> torch.Tensor:
    data = digits()
    data.setup("test")
    return data.arrays("test")[0][:64]


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_twenty_seeds_of_fifty_steps_stay_finite() -> None:
    """At the full learning rate, without warm-up."""
    data = digits()
    data.setup("fit")
    for seed in range(20):
        torch.manual_seed(seed)
        flow = build({**GLOW, "depth": 4})
        x = data.arrays("train")[0]
        flow.initialize(x[:256])
        optimizer = torch.optim.Adamax(flow.parameters(), 1e-3)
        for _ in range(50):
            loss = -flow.log_prob(x[torch.randint(len(x), (32,))]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert torch.isfinite(loss), f"seed {seed}"
        assert all(p.isfinite().all() for p in flow.parameters())


def test_a_trained_2d_density_integrates_to_one(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run("experiment=two_moons", "fit.max_steps=200", "callbacks.pictures=null", "callbacks.estimate=null")
    module = MaximumLikelihood.load_from_checkpoint(
        tmp_path / "outputs/two_moons-realnvp/checkpoints/best.ckpt", weights_only=True
    )
    flow = module.flow.double().eval()
    axis = torch.linspace(-6, 6, 601).double()
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(axis, axis)).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("average", [False, True], ids=["raw", "ema"])
def test_the_smallest_scale_is_logged(average: bool) -> None:
    """That of the validation's weights: after the fit, which ends with the averages, it is found again."""
    module, trainer = trained([SmallestScale(), *([EMA()] if average else [])], max_epochs=1)
    logged = trainer.callback_metrics["val/smallest_scale"].item()
    again = L.Trainer(**QUIET, callbacks=[SmallestScale()]).validate(module, digits(), verbose=False)
    assert again[0]["val/smallest_scale"] == pytest.approx(logged)
    assert 0 < logged < 1


def test_a_fixed_batch_is_learned_by_heart(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run(
        "debug=overfit",
        "model.depth=2",
        "model.width=32",
        "fit.max_epochs=60",
        "callbacks.pictures=null",
        "callbacks.estimate=null",
    )
    with next((tmp_path / "outputs").glob("*/metrics.csv")).open() as file:
        losses = [float(row["train/bpd"]) for row in csv.DictReader(file) if row["train/bpd"]]
    assert losses[-1] < losses[0] - 0.5
