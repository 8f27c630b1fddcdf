"""`python train.py` end to end, at tiny sizes: the files it leaves, and what it says when it cannot."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from glow.commands.cli import CONF
from glow.errors import UsageError

ROOT = CONF.parent
Run = Callable[..., dict[str, Any]]
SMALL = ("debug=fast", "resume=true", "model.depth=1", "model.width=8")
DIGITS = (*SMALL, "callbacks.estimate=null", "callbacks.pictures=null")


def compose(*overrides: str) -> Any:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("train", list(overrides))


def shell(tmp_path: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python train.py ...` in a process of its own, as a user types it."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments, f"output_dir={tmp_path}/outputs"],
        capture_output=True, text=True, timeout=240, cwd=tmp_path, **options,
    )  # fmt: skip


def check_files(folder: Path, results: dict[str, Any], image: bool = True) -> None:
    """Everything that a run's folder must hold."""
    saved = json.loads((folder / "results.json").read_text())
    assert saved == json.loads(json.dumps(results))
    for key in ("test", "val", "seed", "versions", "git_commit", "parameters", "steps", "images_per_s"):
        assert key in saved, key
    assert all(v is not None and 0 < abs(v) < 100 for v in saved["test"].values())
    assert set(saved["test"]) == ({"ema", "raw"} if image else {"raw"})
    config = OmegaConf.load(folder / "config.yaml")
    assert "${" not in (folder / "config.yaml").read_text(), "the configuration must be resolved"
    assert config.seed == saved["seed"]
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    unit = "bpd" if image else "nll"
    for key in (f"train/{unit}", f"val/{unit}", f"test/{unit}", "train/grad_norm", "step"):
        assert key in header, key
    assert any(k.startswith("lr-") for k in header)
    assert list((folder / "tensorboard").glob("events*"))
    for name in ("best", "last"):
        checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        assert checkpoint["hyper_parameters"]["model"]["family"] in ("glow", "realnvp")
    pictures = sorted(p.name for p in (folder / "samples").glob("*.png"))
    assert any(p.startswith("step_") for p in pictures)
    assert saved["picture"] == ("samples/temperatures.png" if image else "samples/density.png")
    final = Image.open(folder / saved["picture"])
    assert min(final.size) > 30
    assert len(set(final.convert("L").getdata())) > 2, "an empty picture"


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

    @pytest.mark.parametrize("name", ["two_moons", "eight_gaussians"])
    def test_points(self, run: Run, tmp_path: Path, name: str) -> None:
        results = run(f"experiment={name}", "debug=fast", "resume=true")
        check_files(tmp_path / f"outputs/{name}-realnvp", results, image=False)
        assert results["unit"] == "nats"

    @pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "dataset").glob("*.yaml")))
    def test_the_default_model_fits(self, name: str) -> None:
        """Every `dataset=` on its own composes with a model that takes its shape, levels and classes."""
        from glow.models import build

        cfg = compose(f"dataset={name}", *(["dataset.root=x"] if name == "image_folder" else []))
        model = OmegaConf.to_container(cfg.model, resolve=True)
        with torch.device("meta"):
            flow = build(model)
        assert list(flow.event_shape) == OmegaConf.to_container(cfg.dataset.shape, resolve=True)
        assert (flow.dequantize.levels if flow.dequantize else None) == cfg.dataset.grey_levels


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
        assert run(*DIGITS, "trainer.max_steps=-1", "trainer.max_epochs=3")["steps"] == 6

    def test_resume_false_takes_a_new_folder(self, run: Run, tmp_path: Path) -> None:
        for _ in range(3):
            run(*DIGITS, "resume=false")
        found = sorted(p.name for p in (tmp_path / "outputs").iterdir())
        assert found == ["digits-glow_small", "digits-glow_small-2", "digits-glow_small-3"]

    def test_another_configuration_is_refused_with_the_keys_that_differ(self, run: Run) -> None:
        run(*DIGITS)
        with pytest.raises(UsageError) as refused:
            run(*DIGITS, "optimizer.lr=0.5", "seed=3", "trainer.max_epochs=7")
        message = str(refused.value)
        assert "optimizer.lr: 0.004 there, 0.5 here" in message
        assert "seed: 0 there, 3 here" in message
        assert "max_epochs" not in message
        assert "resume=false" in message

    def test_a_folder_that_is_no_run_is_refused(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "outputs/digits-glow_small").mkdir(parents=True)
        (tmp_path / "outputs/digits-glow_small/thesis.doc").write_text("precious")
        with pytest.raises(UsageError, match="is not a run"):
            run(*DIGITS)

    def test_a_start_that_failed_does_not_hold_the_folder(self, run: Run, fake_mnist: Path) -> None:
        with pytest.raises(UsageError, match="dataset.val_size"):
            run(*DIGITS, "dataset.val_size=100000")
        with pytest.raises(UsageError, match="optimizer"):
            run(*DIGITS, "optimizer.betas=null")
        assert run(*DIGITS)["steps"] == 2

    def test_the_data_may_have_moved(self, run: Run, tmp_path: Path, fake_mnist: Path) -> None:
        mnist = [*DIGITS, "dataset=mnist", "dataset.val_size=20"]
        run(*mnist, f"dataset.root={fake_mnist}")
        fake_mnist.rename(tmp_path / "elsewhere")
        longer = ["trainer.max_epochs=2", "trainer.max_steps=4"]
        assert run(*mnist, f"dataset.root={tmp_path}/elsewhere", *longer)["steps"] == 4

    @pytest.mark.parametrize("name", ["../elsewhere", "/tmp/x", "a/../../b", ""])
    def test_names_stay_inside(self, run: Run, name: str) -> None:
        with pytest.raises(UsageError, match="is not a folder's name"):
            run(*DIGITS, f"name='{name}'")

    def test_the_seed_decides(self, run: Run) -> None:
        figures = [run(*DIGITS, f"seed={seed}", f"name=run{i}")["test"] for i, seed in enumerate((0, 0, 1))]
        assert figures[0] == figures[1] != figures[2]


class TestSettings:
    def test_checkpoints_elsewhere(self, run: Run, tmp_path: Path) -> None:
        results = run(*DIGITS, f"callbacks.best.dirpath={tmp_path}/far")
        assert results["checkpoint"] == f"{tmp_path}/far/best.ckpt"

    def test_a_resumed_run_is_not_initialized_again(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from glow.flow import Flow

        calls = []
        monkeypatch.setattr(
            Flow, "initialize", lambda self, *a, _of=Flow.initialize: (calls.append(1), _of(self, *a))
        )
        run(*DIGITS)
        run(*DIGITS, "trainer.max_steps=4", "trainer.max_epochs=2")
        assert len(calls) == 1

    def test_class_conditional(self, run: Run, tmp_path: Path) -> None:
        results = run(*SMALL, "model.class_conditional=true", "callbacks.estimate=null")
        assert results["parameters"] > 0
        state = torch.load(tmp_path / "outputs/digits-glow_small/checkpoints/last.ckpt", weights_only=True)
        assert "flow.bijection.top.embedding.weight" in state["state_dict"]

    def test_without_callbacks_and_loggers(self, run: Run) -> None:
        results = run(
            "debug=fast", "model.depth=1", "model.width=8", "logger=none", "callbacks.ema=null",
            "callbacks.pictures=null", "callbacks.best=null", "callbacks.estimate=null",
        )  # fmt: skip
        assert set(results["test"]) == {"raw"}

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
        cfg = compose("experiment=cifar10_paper")
        model = {
            k: cfg.model[k] for k in ("depth", "width", "coupling", "permutation", "learned_top", "levels")
        }
        assert model == {
            "depth": 32, "width": 512, "coupling": "affine", "permutation": "lu", "learned_top": True, "levels": None,
        }  # fmt: skip
        assert (cfg.optimizer.name, cfg.optimizer.lr, cfg.optimizer.warmup_epochs) == ("adamax", 1e-3, 10)
        assert (cfg.dataset.batch_size, cfg.shift, cfg.dataset.grey_levels) == (512, 0.1, 256)
        assert cfg.callbacks.initialize.images >= 256

    def test_days_are_announced(self, run: Run) -> None:
        with pytest.warns(UserWarning, match=r"would take about .* days.*on this cpu.*model=glow_small"):
            run(
                "debug=fast", "model.depth=1", "model.width=8", "callbacks.estimate.hours=1e-7",
                "callbacks.pictures=null",
            )  # fmt: skip

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["seed=-1"], "seed must be an integer of at least zero, got -1"),
            (
                ["trainer.precision=bf16-true"],
                "trainer.precision='bf16-true' is not one of 32-true, bf16-mixed",
            ),
            (["trainer.accelerator=gpus"], "trainer: .*accelerator"),
            (["dataset.batch_size=none"], "dataset.batch_size must be an integer above zero, got 'none'"),
            (["model.levels=4"], "levels=4 needs .* at most levels=3"),
            (["model.coupling=affin"], "did you mean 'affine'"),
            (["optimizer.name=sgd"], "optimizer.name='sgd' is not one of"),
            (["optimizer.decay=cosine", "trainer.max_epochs=-1"], "optimizer.decay=cosine needs an end"),
            (["unit=nll"], "measured in unit=bpd, got unit=nll"),
            (["model=realnvp"], "realnvp models vectors"),
            (["callbacks.ema.decay=2"], "callbacks.ema.decay must be in"),
            (["callbacks.pictures.temperature=0"], "temperature must be a number above zero"),
            (["resume=perhaps"], "resume must be true or false"),
            (["+callbacks.ema.dekay=1"], "callbacks.ema: .*dekay"),
            (["+model.dept=1"], "model.dept is not an option of glow; did you mean 'depth'"),
            (["shift=1"], "shift must be below 1"),
            (["model.class_conditional=no"], "class_conditional must be true or false, got 'no'"),
            (["model.image_shape=5"], "image_shape must be a list of integers above zero, got 5"),
            (["trainer.max_epochs=abc"], "trainer.max_epochs must be an integer of at least -1, got 'abc'"),
            (
                ["trainer.accumulate_grad_batches=0"],
                "trainer.accumulate_grad_batches must be an integer of at least 1",
            ),
            (["trainer.limit_train_batches=0"], "trainer.limit_train_batches must be above zero"),
            (["trainer.val_check_interval=1000"], "trainer: .*val_check_interval"),
            (["seed=99999999999"], "seed must be below 2"),
            (["output_dir=null"], "output_dir must be a folder, got None"),
            (["output_dir=/proc/nope"], "output_dir=/proc/nope: cannot write"),
            (["callbacks.pictures.temperatures=[]"], "callbacks.pictures.temperatures is empty"),
            (
                ["callbacks.ema=true"],
                "callbacks.ema must be a group of settings with a _target_, or null, got True",
            ),
        ],
        ids=lambda v: v[0] if isinstance(v, list) else "",
    )
    def test_bad_ones(self, run: Run, overrides: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            run(*overrides)


class TestCommandLine:
    """In a process of its own: what a user sees."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["model.widht=3"], "error: model.widht is not a setting; did you mean 'model.width'"),
            (["datset=mnist"], "error: datset is not a setting; did you mean 'dataset'"),
            (["dataset=mnits"], "error: dataset=mnits is not one of cifar10, digits,"),
            (["dataset=image_folder"], "error: dataset.root is missing"),
            (["trainer.max_epoch=3"], "did you mean 'trainer.max_epochs'"),
            (["logger=null"], "error: logger cannot be null; choose one of csv, default, none"),
            (["optimizer.lr=fast"], "error: optimizer.lr must be a number above zero, got 'fast'"),
            (["dataset=image_folder", "dataset.root=nowhere"], "error: dataset.root=nowhere is not a folder"),
        ],
        ids=lambda v: v[0] if isinstance(v, list) else "",
    )
    def test_errors_are_one_sentence(self, tmp_path: Path, arguments: list[str], message: str) -> None:
        result = shell(tmp_path, *arguments)
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr

    def test_help(self, tmp_path: Path) -> None:
        result = shell(tmp_path, "--help")
        assert result.returncode == 0
        for text in (
            "dataset: cifar10, digits",
            "experiment: cifar10_paper",
            "resume=false",
            "trainer.precision",
        ):
            assert text in result.stdout, text

    @pytest.mark.slow
    def test_sigterm_saves_and_exits_143_and_the_command_continues(self, tmp_path: Path) -> None:
        arguments = [
            "model.depth=1", "model.width=8", "callbacks.pictures=null", "trainer.max_epochs=12",
            "callbacks.progress.every_seconds=0", "dataset.batch_size=128", "callbacks.estimate=null",
        ]  # fmt: skip
        command = [sys.executable, str(ROOT / "train.py"), f"output_dir={tmp_path}/outputs", *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if re.match(r"step (3\d|[4-9]\d)/", line):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
        assert process.wait(60) == 143
        assert "to continue, repeat the command" in rest
        assert shell(tmp_path, *arguments).returncode == 0
        whole = shell(tmp_path, "name=whole", *arguments)
        assert whole.returncode == 0, whole.stderr
        assert re.search(
            r"step \d+/132, epoch \d+, train [\d.]+ bits/dim, [\d,]+ images/s, ETA \d+:\d\d", whole.stdout
        )
        figures = [
            json.loads((tmp_path / f"outputs/{n}/results.json").read_text())
            for n in ("digits-glow_small", "whole")
        ]
        assert figures[0]["test"] == figures[1]["test"]
        states = [
            torch.load(tmp_path / f"outputs/{n}/checkpoints/last.ckpt", weights_only=True)[
                "current_model_state"
            ]
            for n in ("digits-glow_small", "whole")
        ]
        assert all(torch.equal(a, states[1][k]) for k, a in states[0].items() if isinstance(a, torch.Tensor))

    @pytest.mark.slow
    def test_ctrl_c_saves_and_exits_130(self, tmp_path: Path) -> None:
        command = [
            sys.executable, str(ROOT / "train.py"), f"output_dir={tmp_path}/outputs", "model.depth=1", "model.width=8",
            "callbacks.pictures=null", "trainer.max_epochs=500", "callbacks.progress.every_seconds=0",
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 7/"):
                process.send_signal(signal.SIGINT)
                break
        process.stdout.read()
        assert process.wait(60) == 130
        last = tmp_path / "outputs/digits-glow_small/checkpoints/last.ckpt"
        assert torch.load(last, weights_only=True)["global_step"] >= 7

    @pytest.mark.slow
    def test_two_devices_in_bf16(self, tmp_path: Path, fake_mnist: Path) -> None:
        """`python train.py dataset=mnist trainer.devices=2 trainer.precision=bf16-mixed`."""
        tiny = [
            "dataset=mnist", f"dataset.root={fake_mnist}", "dataset.val_size=21", "model.depth=1", "model.width=8",
            "trainer.max_epochs=2", "callbacks.pictures.n=4", "dataset.batch_size=32", "callbacks.estimate=null",
        ]  # fmt: skip
        two = ["trainer.accelerator=cpu", "trainer.devices=2"]
        result = shell(tmp_path, *tiny, *two, "trainer.precision=bf16-mixed")
        assert result.returncode == 0, result.stderr
        folder = tmp_path / "outputs/mnist-glow_small"
        results = json.loads((folder / "results.json").read_text())
        assert results["devices"] == 2
        assert results["precision"] == "bf16-mixed"
        check_files(folder, results)
        assert [p.name for p in (tmp_path / "outputs").iterdir()] == ["mnist-glow_small"]
        assert results["test_examples"] == 60
        # In float32 two devices and one see the same images and noise: the same run up to rounding.
        exact = []
        for name, devices in (("one", ["trainer.accelerator=cpu"]), ("two", two)):
            result = shell(tmp_path, *tiny, *devices, f"name={name}", "callbacks.ema=null")
            assert result.returncode == 0, result.stderr
            exact.append(json.loads((tmp_path / f"outputs/{name}/results.json").read_text()))
        assert exact[0]["steps"] == exact[1]["steps"] == 12
        assert exact[0]["test"]["raw"] == pytest.approx(exact[1]["test"]["raw"], abs=5e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_two_devices_stop_together(self, tmp_path: Path, number: int, status: int) -> None:
        """The signal goes to both processes, as from a terminal or a scheduler."""
        arguments = [
            "model.depth=1", "model.width=8", "callbacks.pictures=null", "trainer.max_epochs=500",
            "callbacks.progress.every_seconds=0", "trainer.accelerator=cpu", "trainer.devices=2",
            "callbacks.estimate=null",
        ]  # fmt: skip
        command = [sys.executable, str(ROOT / "train.py"), f"output_dir={tmp_path}/outputs", *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 9/"):
                os.killpg(process.pid, number)
                break
        process.stdout.read()
        assert process.wait(60) == status
        last = tmp_path / "outputs/digits-glow_small/checkpoints/last.ckpt"
        assert torch.load(last, weights_only=True)["global_step"] >= 9

    @pytest.mark.slow
    def test_multirun(self, tmp_path: Path) -> None:
        result = shell(
            tmp_path, "-m", "debug=fast", "model.depth=1", "model.width=4,8", "callbacks.pictures=null"
        )
        assert result.returncode == 0, result.stderr
        folders = sorted(p.parent.name for p in (tmp_path / "outputs").glob("*/results.json"))
        assert len(folders) == 2
        assert "model.width=4" in folders[0]

    @pytest.mark.slow
    def test_an_uneven_batch_is_refused(self, tmp_path: Path) -> None:
        result = shell(tmp_path, "trainer.accelerator=cpu", "trainer.devices=2", "dataset.batch_size=33")
        assert result.returncode != 0
        assert "dataset.batch_size=33 is global and does not divide by the 2 devices" in result.stderr


def readme_commands() -> list[str]:
    commands = re.findall(r"python train\.py[^`\n|]*", (ROOT / "README.md").read_text())
    return sorted({re.sub(r"\s+#.*", "", command).strip() for command in commands})


@pytest.mark.parametrize("command", readme_commands())
def test_commands_of_the_readme(
    run: Run, command: str, fake_mnist: Path, fake_cifar: Path, picture_folder: Path
) -> None:
    """Every training command of the README, at a tiny size and on small data."""
    arguments = shlex.split(command)[2:]
    if "--help" in arguments or any(a.startswith("trainer.devices") for a in arguments):
        return  # TestCommandLine runs these
    arguments = [
        a
        for a in arguments
        if not a.startswith(("dataset.root", "trainer.max_time", "name", "trainer.max_epochs"))
    ]
    dataset = next((a.partition("=")[2] for a in arguments if a.startswith("dataset=")), "")
    root = {"image_folder": picture_folder, "cifar10": fake_cifar}.get(dataset, fake_mnist)
    if dataset in ("mnist", "fashion_mnist", "cifar10", "image_folder"):
        arguments += [f"dataset.root={root}", "dataset.val_size=4"]
    elif any("cifar10" in a for a in arguments):
        arguments += [f"dataset.root={fake_cifar}", "dataset.val_size=4"]
    points = any(a.endswith(("two_moons", "eight_gaussians")) for a in arguments)
    run(
        *arguments,
        "debug=fast",
        *([] if points else ["model.depth=1", "model.width=8"]),
        "callbacks.estimate=null",
    )
