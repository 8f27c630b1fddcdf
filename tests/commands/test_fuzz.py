"""Mistyped command lines end in a sentence; damaged or hostile files run nothing and end in one, too.

A few in the suite; ``GLOW_FUZZ=10000 pytest tests/commands/test_fuzz.py`` tries as many as one likes. What is typed is
trusted and may name any class: here it is what slips from one's fingers. What is read from a file is data.
"""

import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

import glow.commands.train
from glow.checkpoint import HEADER, read_model, resolve
from glow.commands.main import CONF, compose, main
from glow.errors import UsageError

EXAMPLES = int(os.environ.get("GLOW_FUZZ", "50"))
"""Of each kind."""

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="GLOW_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

BASES = (
    ["model.depth=1", "model.width=4"], ["dataset=two_moons"], ["dataset=rings", "model=nsf"], ["experiment=vae"],
    ["experiment=reverse_kl"], ["model=realnvp", "model.width=4"], ["debug=fast", "optimizer=adamw", "experiment=made"],
)  # fmt: skip


def _leaves(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}" if name else str(key))
    elif not name.endswith("_"):
        yield name


SETTINGS = sorted(
    {k for base in BASES for k in _leaves(OmegaConf.to_container(compose("train", base)))} - {"output_dir"}
)
GROUPS = {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in CONF.iterdir() if d.is_dir()}


def dropped(word: str, at: int) -> str:
    return word[: at % len(word)] + word[at % len(word) + 1 :]


mistyped_key = st.builds(
    lambda k, i: f"{dropped(k, i)}=1",
    st.sampled_from([k for k in SETTINGS if "." in k]),
    st.integers(0, 30),
)
mistyped_option = st.sampled_from(sorted(GROUPS)).flatmap(
    lambda g: st.builds(lambda o, i: f"{g}={dropped(o, i)}", st.sampled_from(GROUPS[g]), st.integers(0, 30))
)
wrong_value = st.builds(
    "{}={}".format,
    st.sampled_from([k for k in SETTINGS if k.startswith(("model.", "dataset.", "fit.", "optimizer."))]),
    st.sampled_from(["-1", "0", "2.5", "abc", "null", "true", "[1,2]", "1000000"]),
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(cfg: Any) -> None:
    """In place of the trainer: everything is done that `python train.py` does before."""
    sys.exit(0)


def ends_well(arguments: list[str]) -> None:
    """The command ends with status 0, or with status 2 and one line that says why."""
    stderr = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["train.py", *arguments, "output_dir=outputs"])
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back
        patch.setattr(glow.commands.train, "make_trainer", made)
        try:
            with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
                main("glow.commands.train:train", "train")
        finally:
            GlobalHydra.instance().clear()
    assert "Traceback" not in stderr.getvalue()
    if ended.value.code:
        assert ended.value.code == 2
        lines = stderr.getvalue().strip().split("\n")
        assert [line.startswith("error: ") for line in lines].count(True) == 1, stderr.getvalue()


@pytest.mark.slow
@pytest.mark.timeout(0)
@FUZZ
@given(st.sampled_from(BASES), st.one_of(mistyped_key, mistyped_option, wrong_value))
def test_mistyped_command_lines(base: list[str], override: str) -> None:
    ends_well([*base, override])


def opens_well(path: Path) -> None:
    """A file gives a model, or a sentence."""
    with contextlib.suppress(UsageError):
        read_model(path).flow()


@pytest.mark.timeout(0)
@FUZZ
@given(st.booleans(), st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.sampled_from(["flip", "cut"]))
def test_damaged_files(tiny_run: Path, safetensors: bool, where: float, bit: int, how: str) -> None:
    source = resolve(tiny_run)
    damaged = Path("damaged.safetensors" if safetensors else "damaged.ckpt")
    if safetensors:
        read_model(source).export(damaged)
    content = bytearray((damaged if safetensors else source).read_bytes())
    at = int(where * len(content))
    if how == "flip":
        content[at] ^= 1 << bit
    damaged.write_bytes(content if how == "flip" else content[:at])
    opens_well(damaged)


strange = st.sampled_from(
    [None, True, -1, 0, 10**6, 2.5, "abc", "os.system", [], [1], {}, {"_target_": "os.system"}, {"a": [{}]}]
)


@pytest.mark.slow
@pytest.mark.timeout(0)
@FUZZ
@given(st.data())
def test_strange_headers(tiny_run: Path, data: st.DataObject) -> None:
    """What a checkpoint or a header says of its model is anything at all."""
    source = resolve(tiny_run)
    content = torch.load(source, weights_only=True)
    values = content["hyper_parameters"]
    node = data.draw(st.sampled_from(["model", "dataset", None]))
    target = values if node is None else values[node]
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(strange)
    torch.save(content, "strange.ckpt")
    opens_well(Path("strange.ckpt"))
    read_model(source).export(Path("good.safetensors"))
    tensors = load_file("good.safetensors")
    header = {"format": "pt", HEADER: json.dumps({**values, "steps": 1, "weights": data.draw(strange)})}
    save_file(tensors, "strange.safetensors", metadata=header)
    opens_well(Path("strange.safetensors"))
