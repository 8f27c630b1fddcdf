"""`python train.py` in a process of its own: what a user sees."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from glow.commands.main import CONF, compose

from .files import check_files

ROOT = CONF.parent


def shell(
    tmp_path: Path, *arguments: str, program: str = "train.py", **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python train.py ...` in a process of its own, as a user types it."""
    return subprocess.run(
        [sys.executable, str(ROOT / program), *arguments, f"output_dir={tmp_path}/outputs"],
        capture_output=True, text=True, timeout=240, cwd=tmp_path, **options,
    )  # fmt: skip


def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, *arguments: str
) -> tuple[object, str]:
    """Status and standard error of the same in this process, which costs seconds less."""
    stderr = io.StringIO()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [program, *arguments, f"output_dir={tmp_path}/outputs"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back
    try:
        with contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / program), run_name="__main__")
    finally:
        GlobalHydra.instance().clear()
    return ended.value.code, stderr.getvalue()


class TestCommandLine:
    """What a user sees."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["model.widht=3"], "error: model.widht is not a setting; did you mean 'model.width'"),
            (["datset=mnist"], "error: datset is not a setting; did you mean 'dataset'"),
            (["dataset=mnits"], "error: dataset=mnits is not one of audio_folder, banana, bimodal,"),
            (["dataset=image_folder"], "error: dataset.root is missing"),
            (["trainer.max_epoch=3"], "did you mean 'trainer.max_epochs'"),
            (
                ["logger=null"],
                "error: Config group override must be a string or a list. Got NoneType (logger=null)",
            ),
            (
                ["ckpt_path=last.ckpt"],
                "error: ckpt_path is not a setting: repeating a run's command continues it",
            ),
            (
                ["optimizer.decay=cosine"],
                "error: optimizer.decay is not a setting: it is an option of schedule",
            ),
            (["optimizer.lr=fast"], "error: optimizer.lr must be a number of at least zero, got 'fast'"),
            (["dataset=image_folder", "dataset.root=nowhere"], "error: dataset.root=nowhere is not a folder"),
        ],
        ids=lambda v: v[0] if isinstance(v, list) else "",
    )
    def test_errors_are_one_sentence(
        self, tmp_path: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        status, printed = typed(tmp_path, monkeypatch, "train.py", *arguments)
        assert status == 2
        assert message in printed
        assert len(printed.strip().splitlines()) == 1, printed

    def test_an_error_seen_by_a_shell(self, tmp_path: Path) -> None:
        result = shell(tmp_path, "model.widht=3")
        assert result.returncode == 2
        assert result.stderr.startswith("error: model.widht is not a setting; did you mean 'model.width'")
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr

    def test_help(self, tmp_path: Path) -> None:
        result = shell(tmp_path, "--help")
        assert result.returncode == 0
        for text in (
            "dataset: audio_folder, banana, bimodal",
            "experiment: boltzmann, celeba256_paper",
            "resume=false",
            "trainer.precision",
        ):
            assert text in result.stdout, text

    @pytest.mark.slow
    def test_sampling_and_measuring(self, tmp_path: Path, tiny_run: Path, picture_folder: Path) -> None:
        """With data of another name, by Hydra's own group."""
        other = ("dataset=image_folder", f"dataset.root={picture_folder}")
        ckpt = f"ckpt={tiny_run}"
        drawn = shell(
            tmp_path, ckpt, *other, "mode=reconstruct", "images=[0]", "out=drawn", program="sample.py"
        )
        assert drawn.returncode == 0, drawn.stderr
        assert "largest error of 1 reconstructions: 0 of 17 grey levels" in drawn.stdout
        options = (ckpt, *other, "limit=4", "out=measured", "diagnostics=false")
        measured = shell(tmp_path, *options, program="evaluate.py")
        assert measured.returncode == 0, measured.stderr
        assert re.search(r"ema +[\d.]+ \+- [\d.]+ bits/dim", measured.stdout)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["drawn", "measured", "pictures"]

    @pytest.mark.parametrize(
        ("program", "arguments", "message"),
        [
            ("sample.py", ["temprature=1"], "error: temprature is not a setting; did you mean 'temperature'"),
            ("sample.py", ["model=glow"], ": the model is the checkpoint's"),
            (
                "sample.py",
                ["dataset=mnits"],
                "error: dataset=mnits is not one of audio_folder, banana, bimodal,",
            ),
            ("evaluate.py", ["ckpt=nowhere"], "error: ckpt=nowhere is not there"),
        ],
        ids=lambda v: v[0] if isinstance(v, list) else "",
    )
    def test_their_errors_are_one_sentence(
        self,
        tmp_path: Path,
        program: str,
        arguments: list[str],
        message: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        status, printed = typed(tmp_path, monkeypatch, program, *arguments)
        assert status == 2
        assert message in printed
        assert len(printed.strip().splitlines()) == 1, printed

    @pytest.mark.parametrize("program", ["sample", "evaluate"])
    def test_their_help(self, tmp_path: Path, program: str) -> None:
        result = shell(tmp_path, "--help", program=f"{program}.py")
        assert result.returncode == 0
        assert f"python {program}.py ckpt=outputs/NAME" in result.stdout
        assert "dataset=NAME" in result.stdout

    @pytest.mark.slow
    def test_a_profiler_reports(self, tmp_path: Path) -> None:
        small = (
            "debug=fast",
            "model.depth=1",
            "model.width=4",
            "callbacks.pictures=null",
            "callbacks.estimate=null",
        )
        result = shell(tmp_path, *small, "trainer.profiler=simple")
        assert result.returncode == 0, result.stderr
        assert "FIT Profiler Report" in result.stdout + result.stderr

    @pytest.mark.slow
    def test_a_limit_on_the_size_of_files_is_a_sentence(self, tmp_path: Path) -> None:
        small = (
            "debug=fast",
            "model.depth=1",
            "model.width=32",
            "callbacks.pictures=null",
            "callbacks.estimate=null",
        )
        program = f"ulimit -f 100; exec {sys.executable} {ROOT}/train.py {' '.join(small)} output_dir={tmp_path}/outputs"
        result = subprocess.run(
            ["bash", "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path
        )
        assert result.returncode == 1
        assert "could not be written: file too large" in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize("arguments", [["--info", "defaults"], ["--help"], ["model.widht=3"]])
    def test_what_trains_nothing_imports_no_torch(self, tmp_path: Path, arguments: list[str]) -> None:
        program = (
            "import sys, atexit\nsys.argv = ['train.py', *sys.argv[1:]]\n"
            "atexit.register(lambda: print('torch' in sys.modules, 'lightning' in sys.modules))\n"
            "from glow.commands.main import main\nmain('glow.commands.train:train', 'train')\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT
        )
        assert result.stdout.splitlines()[-1] == "False False"

    @pytest.mark.slow
    def test_sigterm_saves_and_exits_143_and_the_command_continues(self, tmp_path: Path) -> None:
        arguments = [
            "model.depth=1", "model.width=8", "callbacks.pictures=null", "fit.max_epochs=12",
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
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
    def test_other_signals_save_and_have_their_own_status(
        self, tmp_path: Path, number: int, status: int
    ) -> None:
        command = [
            sys.executable, str(ROOT / "train.py"), f"output_dir={tmp_path}/outputs", "model.depth=1", "model.width=8",
            "callbacks.pictures=null", "fit.max_epochs=500", "callbacks.progress.every_seconds=0",
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 7/"):
                process.send_signal(number)
                break
        process.stdout.read()
        assert process.wait(60) == status
        last = tmp_path / "outputs/digits-glow_small/checkpoints/last.ckpt"
        assert torch.load(last, weights_only=True)["global_step"] >= 7

    @pytest.mark.slow
    def test_two_devices_in_bf16(self, tmp_path: Path, fake_mnist: Path) -> None:
        """`python train.py dataset=mnist trainer.devices=2 trainer.precision=bf16-mixed`."""
        tiny = [
            "dataset=mnist", f"dataset.root={fake_mnist}", "dataset.val_size=21", "model.depth=1", "model.width=8",
            "fit.max_epochs=2", "callbacks.pictures.n=4", "dataset.batch_size=32", "callbacks.estimate=null",
        ]  # fmt: skip
        two = ["trainer.accelerator=cpu", "trainer.devices=2"]
        result = shell(tmp_path, *tiny, *two, "trainer.precision=bf16-mixed")
        assert result.returncode == 0, result.stderr
        said = result.stdout + result.stderr
        assert said.count("Initializing distributed: GLOBAL_RANK: 0") == 1
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
            result = shell(tmp_path, *tiny, *devices, f"name={name}", "ema=none")
            assert result.returncode == 0, result.stderr
            exact.append(json.loads((tmp_path / f"outputs/{name}/results.json").read_text()))
        assert exact[0]["steps"] == exact[1]["steps"] == 12
        assert exact[0]["test"]["raw"] == pytest.approx(exact[1]["test"]["raw"], abs=5e-3)

    @pytest.mark.slow
    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_two_devices_stop_together(self, tmp_path: Path, number: int, status: int) -> None:
        """The signal goes to both processes, as from a terminal or a scheduler."""
        arguments = [
            "model.depth=1", "model.width=8", "callbacks.pictures=null", "fit.max_epochs=500",
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


def test_a_command_can_compose_an_option() -> None:
    """As ``ood=NAME`` does, inside of Hydra's own main."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("evaluate", ["dataset=svhn"]).dataset.kind == "SVHN"
        assert compose("evaluate", ["dataset=mnist"]).dataset.kind == "MNIST"
    assert compose("evaluate", ["dataset=mnist"]).dataset.kind == "MNIST"
