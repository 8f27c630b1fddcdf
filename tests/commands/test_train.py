"""What `python train.py` does, at tiny sizes: the files it leaves, and what it says when it cannot."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from glow.commands.main import CONF, compose
from glow.data import Digits
from glow.errors import UsageError
from glow.fused import FusedLevel
from glow.training import MaximumLikelihood

from .files import check_files

ROOT = CONF.parent
Run = Callable[..., dict[str, Any]]
SMALL = ("debug=fast", "resume=true", "model.depth=1", "model.width=8")
DIGITS = (*SMALL, "callbacks.estimate=null", "callbacks.pictures=null")


class TestEveryDataset:
    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_mnist(self, run: Run, tmp_path: Path, fake_mnist: Path, name: str) -> None:
        whole = "trainer.limit_test_batches=null"
        results = run(*SMALL, f"dataset={name}", f"dataset.root={fake_mnist}", "dataset.val_size=20", whole)
        check_files(tmp_path / f"outputs/{name}-glow_small", results)
        assert results["test_examples"] == 60

    def test_cifar10(self, run: Run, tmp_path: Path, fake_cifar: Path) -> None:
        results = run(
            *SMALL, "dataset=cifar10", f"dataset.root={fake_cifar}", "dataset.val_size=8", "shift=0.1"
        )
        check_files(tmp_path / "outputs/cifar10-glow", results)

    def test_digits(self, run: Run, tmp_path: Path) -> None:
        check_files(tmp_path / "outputs/digits-glow_small", run(*SMALL))

    def test_image_folder(self, run: Run, tmp_path: Path, picture_folder: Path) -> None:
        results = run(
            *SMALL, "dataset=image_folder", f"dataset.root={picture_folder}", "dataset.image_size=8",
            "dataset.channels=1", "model=glow_small",
        )  # fmt: skip
        check_files(tmp_path / "outputs/image_folder-glow_small", results)

    @pytest.mark.parametrize("name", ["two_moons", pytest.param("eight_gaussians", marks=pytest.mark.slow)])
    def test_points(self, run: Run, tmp_path: Path, name: str) -> None:
        results = run(f"experiment={name}", "debug=fast", "resume=true", f"name={name}")
        check_files(tmp_path / f"outputs/{name}", results, image=False)
        assert results["unit"] == "nats"

    @pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "dataset").glob("*.yaml")))
    def test_the_default_model_fits(self, name: str) -> None:
        """Every `dataset=` on its own composes with a model that takes its shape, levels and classes."""
        from glow.flows import build

        cfg = compose("train", [f"dataset={name}", *(["dataset.root=x"] if name == "image_folder" else [])])
        model = OmegaConf.to_container(cfg.model, resolve=True)
        with torch.device("meta"):
            flow = build(model)
        assert list(flow.event_shape) == OmegaConf.to_container(cfg.dataset.shape, resolve=True)
        assert flow.grey_levels == cfg.dataset.grey_levels


class TestFolder:
    def test_a_finished_run_is_reported_and_not_repeated(
        self, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = run(*DIGITS)
        start = time.monotonic()
        assert run(*DIGITS) == first
        assert time.monotonic() - start < 2
        assert "is finished" in capsys.readouterr().out

    def test_more_epochs_continue_it(self, run: Run) -> None:
        assert run(*DIGITS)["steps"] == 2
        assert run(*DIGITS, "fit.max_steps=-1", "fit.max_epochs=3")["steps"] == 6

    @pytest.mark.slow
    def test_how_it_computes_may_change(self, run: Run) -> None:
        expected = run(*DIGITS, "name=whole", "fit.max_steps=6", "fit.max_epochs=3")["test"]["raw"]
        run(*DIGITS, "model.recompute=step")
        others = ["model.recompute=reversible", "model.kernels=triton"]  # on a CPU torch's
        found = run(*DIGITS, *others, "fit.max_steps=6", "fit.max_epochs=3")
        assert found["steps"] == 6
        assert found["test"]["raw"] == pytest.approx(expected, abs=1e-4)

    def test_weights_of_another_version_are_refused(self, run: Run, tmp_path: Path) -> None:
        run(*DIGITS)
        path = tmp_path / "outputs/digits-glow_small/checkpoints/last.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        for state in (checkpoint["state_dict"], checkpoint["current_model_state"]):
            state["flow.old_name"] = state.pop(next(k for k in state if k.endswith("shift")))
        torch.save(checkpoint, path)
        with pytest.raises(UsageError, match="last.ckpt was written by another version .* resume=false"):
            run(*DIGITS, "fit.max_steps=-1", "fit.max_epochs=3")

    @pytest.mark.slow
    def test_a_compiled_run(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = run(*DIGITS, "model.levels=1", "name=eager")["test"]["raw"]
        sizes: list[dict[str, torch.Size]] = []
        monkeypatch.setattr(
            MaximumLikelihood, "on_train_end", lambda self: sizes.append(compiled_sizes(self.flow))
        )
        found = run("model.levels=1", *(o for o in DIGITS if "estimate" not in o), "compile=true")
        assert found["test"]["raw"] == pytest.approx(expected, abs=1e-3)
        assert sizes[0]["forward"][0] == compose("train", DIGITS).dataset.batch_size, (
            "what is compiled is what is trained on"
        )

    def test_resume_false_takes_a_new_folder(self, run: Run, tmp_path: Path) -> None:
        for _ in range(3):
            run(*DIGITS, "resume=false")
        found = sorted(p.name for p in (tmp_path / "outputs").iterdir())
        assert found == ["digits-glow_small", "digits-glow_small-2", "digits-glow_small-3"]

    def test_another_configuration_is_refused_with_the_keys_that_differ(self, run: Run) -> None:
        run(*DIGITS)
        with pytest.raises(UsageError) as refused:
            run(*DIGITS, "optimizer.lr=0.5", "seed=3", "fit.max_epochs=7")
        message = str(refused.value)
        assert "optimizer.lr: 0.01 there, 0.5 here" in message
        assert "seed: 0 there, 3 here" in message
        assert "max_epochs" not in message
        assert "resume=false" in message

    def test_a_folder_that_is_no_run_is_refused(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "outputs/digits-glow_small").mkdir(parents=True)
        (tmp_path / "outputs/digits-glow_small/thesis.doc").write_text("precious")
        with pytest.raises(UsageError, match="is not a run"):
            run(*DIGITS)

    def test_a_start_that_failed_does_not_hold_the_folder(self, run: Run, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="dataset.val_size"):
            run(*DIGITS, "dataset.val_size=100000")
        with pytest.raises(UsageError, match="optimizer"):
            run(*DIGITS, "optimizer.momentum=null")
        assert not list((tmp_path / "outputs").glob("*")), "failed starts leave no folder"
        assert run(*DIGITS)["steps"] == 2

    def test_the_data_may_have_moved(self, run: Run, tmp_path: Path, fake_mnist: Path) -> None:
        mnist = [*DIGITS, "dataset=mnist", "dataset.val_size=20"]
        run(*mnist, f"dataset.root={fake_mnist}")
        fake_mnist.rename(tmp_path / "elsewhere")
        longer = ["fit.max_epochs=2", "fit.max_steps=4"]
        assert run(*mnist, f"dataset.root={tmp_path}/elsewhere", *longer)["steps"] == 4

    @pytest.mark.parametrize("name", ["../elsewhere", "/tmp/x", "a/../../b", ""])
    def test_names_stay_inside(self, run: Run, name: str) -> None:
        with pytest.raises(UsageError, match="is not a folder's name"):
            run(*DIGITS, f"name='{name}'")

    def test_the_seed_decides(self, run: Run) -> None:
        figures = [run(*DIGITS, f"seed={seed}", f"name=run{i}")["test"] for i, seed in enumerate((0, 0, 1))]
        assert figures[0] == figures[1] != figures[2]


class TestSettings:
    def test_a_resumed_run_is_not_initialized_again(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from glow.flows.flow import Flow

        calls = []
        monkeypatch.setattr(
            Flow, "initialize", lambda self, *a, _of=Flow.initialize: (calls.append(1), _of(self, *a))
        )
        run(*DIGITS)
        run(*DIGITS, "fit.max_steps=4", "fit.max_epochs=2")
        assert len(calls) == 1

    def test_class_conditional(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        results = run(*SMALL, "model.class_conditional=true", "callbacks.estimate=null")
        assert results["parameters"] > 0
        state = torch.load(tmp_path / "outputs/digits-glow_small/checkpoints/last.ckpt", weights_only=True)
        assert "flow.bijection.steps.1.top.given" in state["state_dict"]
        table = state["state_dict"]["flow.bijection.steps.0.probability"]
        data = Digits(name="digits", shape=(1, 8, 8), grey_levels=17, batch_size=4)
        data.setup("fit")
        counts = data.grey_level_counts()
        assert counts is not None
        torch.testing.assert_close(
            table, ((counts + 1) / (counts + 1).sum()).float()
        )  # not of the batch alone
        assert results["labelled"]
        assert "examples, given their labels)" in capsys.readouterr().out

    def test_without_callbacks_and_loggers(self, run: Run) -> None:
        results = run(
            "debug=fast", "model.depth=1", "model.width=8", "logger=none", "ema=none",
            "callbacks.pictures=null", "callbacks.best=null", "callbacks.estimate=null",
        )  # fmt: skip
        assert set(results["test"]) == {"raw"}

    @pytest.mark.parametrize("name", ["adam", "adamw", "adamax", "muon"])
    def test_optimizers(self, run: Run, name: str) -> None:
        assert run(*DIGITS, f"optimizer={name}", "fit.gradient_clip_val=1")["steps"] == 2

    def test_five_bits(self, run: Run, fake_mnist: Path) -> None:
        results = run(
            *DIGITS, "dataset=mnist", f"dataset.root={fake_mnist}", "dataset.val_size=20", "dataset.grey_levels=32"
        )  # fmt: skip
        assert results["test"]["raw"] > 4

    def test_all_of_lightning_s_trainer_can_be_set(self) -> None:
        ours = set(yaml.safe_load((CONF / "trainer/default.yaml").read_text())) - {"_target_"}
        given_by_the_program = {
            "callbacks", "logger", "default_root_dir", "use_distributed_sampler", "enable_checkpointing",
            "plugins", "barebones", "limit_predict_batches", "enable_autolog_hparams", "model_registry",
        }  # fmt: skip
        theirs = set(inspect.signature(L.Trainer.__init__).parameters) - {"self"}
        assert ours == theirs - given_by_the_program

    def test_the_paper_s_recipe(self) -> None:
        cfg = compose("train", ["experiment=cifar10_paper"])
        model = {
            k: cfg.model[k] for k in ("depth", "width", "coupling", "permutation", "learned_top", "levels")
        }
        assert model == {
            "depth": 32, "width": 512, "coupling": "affine", "permutation": "lu", "learned_top": True, "levels": None,
        }  # fmt: skip
        assert (cfg.optimizer._target_, cfg.optimizer.lr) == ("torch.optim.Adamax", 1e-3)
        assert (cfg.schedule.warmup_epochs, cfg.schedule.decay) == (10, "none")
        assert (cfg.dataset.batch_size, cfg.shift, cfg.dataset.grey_levels) == (512, 0.1, 256)
        assert cfg.callbacks.initialize.images >= 256
        assert cfg.callbacks.best is None

    def test_days_are_announced(self, run: Run) -> None:
        with pytest.warns(UserWarning, match=r"would take about .* days.*on this cpu.*model=glow_small"):
            run(
                "debug=fast", "model.depth=1", "model.width=8", "callbacks.estimate.hours=1e-7",
                "callbacks.pictures=null",
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["trainer.precision=bf16-true"], "trainer.precision"),
            (["trainer.accelerator=gpus"], "trainer: .*accelerator"),
            (["dataset.batch_size=none"], "dataset.batch_size must be an integer above zero, got 'none'"),
            (["model.levels=4"], "levels=4 needs .* at most levels=3"),
            (["model.coupling=affin"], "did you mean 'affine'"),
            (["optimizer._target_=torch.optim.Adamm"], "optimizer: .*Adamm"),
            (["schedule=cosine", "fit.max_epochs=-1"], "schedule.*needs an end"),
            (["model=maf"], "vectors"),
            (["callbacks.ema.decay=2"], "decay must be in"),
            (["callbacks.pictures.temperature=-1"], "temperature must be a number"),
            (["+callbacks.ema.dekay=1"], "callbacks.ema: .*dekay"),
            (["+model.dept=1"], "model: .*dept"),
            (["model.recompute=all"], "recompute='all' is not one of none, step, reversible"),
            (["model.kernels=cuda"], "kernels='cuda' is not one of torch, triton"),
            (["dataset=two_moons", "compile=true"], "only a Glow has steps to compile"),
            (["compile=graphs"], "compile must be false, true, graph or both, got 'graphs'"),
            (["schedule.decay=exponential"], "decay='exponential' is not one of none, cosine, linear"),
            (["shift=1"], "shift must be below 1"),
            (["fit.max_epochs=abc"], "trainer: "),
            (["trainer.val_check_interval=1000"], "trainer: .*val_check_interval"),
            (["output_dir=/proc/nope"], "output_dir=/proc/nope: cannot write"),
            (["callbacks.pictures.temperatures=[]"], "temperatures is empty"),
            (["callbacks.ema=true"], "callbacks.ema must be a group of settings with a _target_, or null"),
            (["+callbacks.early={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/x}"], "trainer: .*val/x"),
        ],
        ids=lambda v: v[0] if isinstance(v, list) else "",
    )  # fmt: skip
    def test_bad_ones(self, run: Run, overrides: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            run("model.depth=1", "model.width=4", *overrides) if "model=maf" not in overrides and not any(
                "two_moons" in o for o in overrides
            ) else run(*overrides)


def compiled_sizes(flow: torch.nn.Module) -> dict[str, torch.Size]:
    """The sizes that the first level was compiled for."""
    return next(m for m in flow.modules() if isinstance(m, FusedLevel))._sizes


def test_half_precision_without_its_arithmetic_is_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On such a CPU a step takes ten times as long."""
    import glow.commands.report

    half = (*DIGITS, "trainer.precision=bf16-mixed", "trainer.accelerator=cpu")
    monkeypatch.setattr(glow.commands.report, "has_fast_kernels", lambda dtype: False)
    with pytest.warns(UserWarning, match="trainer.precision=bf16-mixed: this CPU has no bf16 arithmetic"):
        run(*half, "name=slow")
    monkeypatch.setattr(glow.commands.report, "has_fast_kernels", lambda dtype: True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(*half, "name=quick")
    assert not [w for w in caught if "bf16 arithmetic" in str(w.message)]


@pytest.mark.parametrize("overrides", [(), ("experiment=two_moons", "trainer.precision=64-true")])
def test_pictures_in_tensorboard(run: Run, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Samples, the strip of temperatures, and histograms of latents for every scale."""
    small = ("model.depth=1", "model.width=4") if not overrides else ()
    run("debug=fast", "name=seen", "callbacks.estimate=null", *small, *overrides)
    events = EventAccumulator(str(tmp_path / "outputs/seen/tensorboard"), {"images": 0, "histograms": 0})
    events.Reload()
    images = not overrides
    assert sorted(events.Tags()["images"]) == (["samples", "temperatures"] if images else ["samples"])
    assert sorted(events.Tags()["histograms"]) == [f"latents/scale_{i}" for i in range(1, 4 if images else 2)]
    counts = events.Histograms("latents/scale_1")[0].histogram_value.num
    assert counts == (64 * 32 if images else 64 * 2)
