"""Every command of the README and of the pages in docs/ runs, or composes to a model that fits its data."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from glow.commands.build import make, make_model
from glow.commands.evaluate import evaluate
from glow.commands.main import CONF, compose
from glow.commands.sample import sample
from glow.weights import shipped

ROOT = CONF.parent
PAGES = ("README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")))
Run = Callable[..., dict[str, Any]]

ELSEWHERE = re.compile(r"--help| -m | --config-dir |mypkg|=(X|NAME|RUN|FILE)\b")
"""What other tests run (help and multirun: test_command_line.py; classes and option files of one's own:
test_own_classes.py), and words that stand for a value."""


def page_commands(program: str, *pages: str) -> list[str]:
    text = "\n".join((ROOT / page).read_text() for page in pages)
    commands = (re.sub(r"\s+#.*", "", c) for c in re.findall(rf"python {program}\.py[^`\n|]*", text))
    return sorted({command.strip() for command in commands if not ELSEWHERE.search(command)})


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=pytest.mark.slow if "compile=true" in c else ())
        for c in page_commands("train", "README.md")
    ],
)
def test_commands_of_the_readme(
    run: Run, command: str, fake_mnist: Path, fake_cifar: Path, picture_folder: Path
) -> None:
    """Every training command of the README, at a tiny size and on small data."""
    arguments = shlex.split(command)[2:]
    if any(a.startswith("trainer.devices") for a in arguments):
        return  # test_command_line.py runs these
    arguments = [a for a in arguments if not a.startswith(("dataset.root", "fit.max_", "name"))]
    dataset = next((a.partition("=")[2] for a in arguments if a.startswith("dataset=")), "")
    root = {"image_folder": picture_folder, "cifar10": fake_cifar}.get(dataset, fake_mnist)
    if dataset in ("mnist", "fashion_mnist", "cifar10", "image_folder"):
        arguments += [f"dataset.root={root}", "dataset.val_size=4"]
    elif any("cifar10" in a for a in arguments):
        arguments += [f"dataset.root={fake_cifar}", "dataset.val_size=4"]
    is_glow = compose("train", arguments).model._target_ == "glow.flows.Glow"
    run(
        *arguments,
        "debug=fast",
        *(["model.depth=1", "model.width=8"] if is_glow else []),
        *(["model.levels=1"] if "compile=true" in arguments else []),
        "callbacks.estimate=null",
    )


@pytest.mark.parametrize("command", page_commands("train", *PAGES))
def test_training_commands_of_all_pages(command: str) -> None:
    """Model, data and objective of each fit together, built as train.py does; the README's are run above, and every family
    and density in test_small_flows.py."""
    cfg = compose("train", shlex.split(command)[2:])
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    with torch.device("meta"):
        flow = make_model(cfg.model)
    module = make("objective", cfg.objective)(
        flow, make("optimizer", cfg.optimizer), model=values["model"], dataset=values["dataset"]
    )
    assert list(module.flow.event_shape) == values["dataset"]["shape"]
    binary_or_none = values["dataset"]["grey_levels"] in (None, 2)
    reverse = values["objective"]["_target_"] == "glow.training.ReverseKL"
    assert module.unit == ("nelbo" if reverse else "nll" if binary_or_none else "bpd")


@pytest.fixture
def runs(run: Run) -> None:
    """Tiny runs with the names that the pages have."""
    tiny = ("debug=fast", "callbacks.estimate=null", "callbacks.pictures=null")
    run("name=digits-glow_small", "model.depth=1", "model.width=4", *tiny)
    run("dataset=two_moons", "dataset.train_size=300", "dataset.val_size=50", "dataset.test_size=100",
        "name=two_moons-realnvp", *tiny)  # fmt: skip


@pytest.mark.filterwarnings("ignore:compile=graph. CUDA graphs need a GPU")
@pytest.mark.usefixtures("one_thread", "runs")
@pytest.mark.parametrize("pages", [PAGES[:1], pytest.param(PAGES[1:], marks=pytest.mark.slow)])
def test_sampling_and_measuring_commands(pages: tuple[str, ...], fake_mnist: Path, tmp_path: Path) -> None:
    """On tiny runs, with few steps; data and runs are where the test has them."""
    commands = [("sample", c) for c in page_commands("sample", *pages)]
    commands += [("evaluate", c) for c in page_commands("evaluate", *pages)]
    assert len(commands) > 7
    for program, command in commands:
        arguments = shlex.split(command)[2:]
        ckpt = next(
            (a.partition("=")[2] for a in arguments if a.startswith("ckpt=")), "outputs/digits-glow_small"
        )
        arguments = [a for a in arguments if not a.startswith(("ckpt", "dataset.root", "export"))]
        if program == "sample":
            arguments += [] if any(a.startswith("steps") for a in arguments) else ["steps=3"]
            arguments += [f"export={tmp_path}/model.safetensors"] if "export" in command else []
        else:
            arguments += ["diagnosed=32", "limit=32"]
        by_name = "/" not in ckpt  # weights that come with the project
        file = shipped()[ckpt] if by_name else tmp_path / ckpt
        own = [f"dataset.root={fake_mnist}", "dataset.val_size=20"] if by_name else []
        arguments += [f"output_dir={tmp_path}/outputs", *own]
        cfg = compose(program, [f"ckpt={ckpt if by_name else file}", *arguments])
        report = {"sample": sample, "evaluate": evaluate}[program](cfg)
        assert report["ckpt"].startswith(str(file))
