"""Every command of the README runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from glow.commands.evaluate import evaluate
from glow.commands.main import CONF, compose
from glow.commands.sample import sample
from glow.training import FlowModule

ROOT = CONF.parent
Run = Callable[..., dict[str, Any]]


def readme_commands(program: str, file: str = "README.md") -> list[str]:
    commands = re.findall(rf"python {program}\.py[^`\n|]*", (ROOT / file).read_text())
    return sorted({re.sub(r"\s+#.*", "", command).strip() for command in commands})


@pytest.mark.parametrize("command", readme_commands("train"))
def test_commands_of_the_readme(
    run: Run, command: str, fake_mnist: Path, fake_cifar: Path, picture_folder: Path
) -> None:
    """Every training command of the README, at a tiny size and on small data."""
    arguments = shlex.split(command)[2:]
    if "--help" in arguments or any(a.startswith("trainer.devices") for a in arguments):
        return  # test_command_line.py runs these
    arguments = [
        a for a in arguments if not a.startswith(("dataset.root", "fit.max_time", "name", "fit.max_epochs"))
    ]
    dataset = next((a.partition("=")[2] for a in arguments if a.startswith("dataset=")), "")
    root = {"image_folder": picture_folder, "cifar10": fake_cifar}.get(dataset, fake_mnist)
    if dataset in ("mnist", "fashion_mnist", "cifar10", "image_folder"):
        arguments += [f"dataset.root={root}", "dataset.val_size=4"]
    elif any("cifar10" in a for a in arguments):
        arguments += [f"dataset.root={fake_cifar}", "dataset.val_size=4"]
    is_glow = compose("train", arguments).model.family == "glow"
    run(
        *arguments,
        "debug=fast",
        *(["model.depth=1", "model.width=8"] if is_glow else []),
        *(["model.levels=1"] if "compile=true" in arguments else []),
        "callbacks.estimate=null",
    )


@pytest.mark.parametrize("command", readme_commands("train", "docs/flows.md"))
def test_commands_of_the_page_about_small_flows(command: str) -> None:
    """Their models and data fit together; test_small_flows.py runs every family and density."""
    arguments = shlex.split(command)[2:]
    if "-m" in arguments:
        return  # test_command_line.py has a multirun
    cfg: Any = OmegaConf.to_container(compose("train", arguments), resolve=True)
    module = FlowModule(cfg["model"], cfg["optimizer"], dataset=cfg["dataset"], objective=cfg["objective"])
    assert module.unit == cfg["unit"]
    assert list(module.flow.event_shape) == cfg["dataset"]["shape"]


def test_sampling_and_measuring_commands_of_the_readme(run: Run, fake_mnist: Path, tmp_path: Path) -> None:
    """On a tiny run, with few steps; data and runs are where the test has them."""
    root = f"dataset.root={fake_mnist}"
    tiny = (
        "debug=fast",
        "model.depth=1",
        "model.width=4",
        "callbacks.estimate=null",
        "callbacks.pictures=null",
    )
    run("dataset=fashion_mnist", root, "dataset.val_size=20", "name=fashion_mnist_20min", *tiny)
    run("experiment=two_moons", "debug=fast", "callbacks.estimate=null", "dataset.train_size=300",
        "dataset.val_size=50", "dataset.test_size=100", "name=two_moons-realnvp")  # fmt: skip
    commands = [("sample", c) for c in readme_commands("sample")]
    commands += [("evaluate", c) for c in readme_commands("evaluate")]
    assert len(commands) > 8
    for program, command in commands:
        arguments = shlex.split(command)[2:]
        if "--help" in arguments:
            continue
        arguments = [a for a in arguments if not a.startswith(("dataset.root", "export"))]
        if program == "sample":
            arguments += [] if any(a.startswith("steps") for a in arguments) else ["steps=3"]
            exported = ["export=" + str(tmp_path / "model.safetensors")] if "export" in command else []
            arguments += exported
        else:
            arguments += ["diagnosed=32", "limit=32"]
        name = next((a.partition("/")[2] for a in arguments if a.startswith("ckpt=")), "fashion_mnist_20min")
        arguments = [a for a in arguments if not a.startswith("ckpt=")]
        cfg = compose(
            program, [f"ckpt={tmp_path}/outputs/{name}", *arguments, *([root] if "moons" not in name else [])]
        )
        report = {"sample": sample, "evaluate": evaluate}[program](cfg)
        assert report["ckpt"].startswith(str(tmp_path))
