"""Every training command of the README runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glow.commands.cli import CONF

ROOT = CONF.parent
Run = Callable[..., dict[str, Any]]


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
        return  # test_command_line.py runs these
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
        *(["model.levels=1"] if "compile=true" in arguments else []),
        "callbacks.estimate=null",
    )
