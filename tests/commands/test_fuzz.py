"""Random command lines and damaged YAML files: each ends in a result or in one sentence.

A few hundred in the suite; ``GLOW_FUZZ=10000 pytest tests/commands/test_fuzz.py`` tries as many as one likes.
Everything is done that ``python train.py`` does before it trains.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import glow.commands.main as cli
import glow.commands.train as train

EXAMPLES = int(os.environ.get("GLOW_FUZZ", "50"))
"""Of each kind."""

SECONDS = 60
"""No example may take longer."""

FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="GLOW_FUZZ" not in os.environ,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

BASES = (
    ["model.depth=1", "model.width=4"], ["dataset=two_moons"], ["dataset=rings", "model=nsf"], ["experiment=vae"],
    ["experiment=reverse_kl"], ["dataset=image_folder", "dataset.root=."], ["model=realnvp", "model.width=4"],
    ["dataset=mnist", "model.depth=1", "model.width=4"], ["debug=fast", "optimizer=adamw", "experiment=made"],
)  # fmt: skip


def _leaves(value: Any, name: str) -> Iterator[str]:
    if name:
        yield name
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves(below, f"{name}.{key}" if name else str(key))


GROUPS = {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in cli.CONF.iterdir() if d.is_dir()}
# The folder that everything goes to is the test's; Hydra's own settings are its.
SETTINGS = sorted(
    {
        key
        for base in BASES
        for key in _leaves(OmegaConf.to_container(cli.compose("train", base)), "")
        if key != "output_dir"
    }
)

NASTY = (
    "null", "true", "false", "no", "-1", "0", "1", "2", "3.7", "-0.0", "1e400", "-1e400", "1e-400", "nan", "inf",
    "1000000000000", "123456789012345678901234567890", "''", "' '", "a", "a" * 3000, "é漢字🙂", "'\\n'", "[]", "{}",
    "[1]", "[1,2,3]", "[0,-1]", "[[1],[2]]", "[null]", "[a,b]", "{a:1}", "{a:{b:[1]}}", "${oops}", "${oc.env:OOPS}",
    "${oc.env:PATH}", "${seed}", "${name}", "${dataset}", "${oops:}", "${", "'${'", "???", "'quo\"te'", "\"quo'te\"",
    "a=b", "'a=b'", "/etc/passwd", "../x", "~", "1:2", "00:00:00:10", "0x10", "1_000", "+1", "1,2", "choice(1,2)",
    "range(3)", "{_target_:os.system}", "{_target_:glow.data.Digits}", "{_target_:lightning.Trainer}", "os.system",
    "glow.training.EMA", "lightning.pytorch.callbacks.Timer", "[", "}", "'", "\\", "$", "@", "#", "a b", "\t",
)  # fmt: skip

value = st.sampled_from(NASTY) | st.integers(-3, 3).map(str) | st.floats(-2, 2).map(str)
value |= st.sampled_from([v for options in GROUPS.values() for v in options]) | st.text(max_size=8)
key = st.sampled_from(SETTINGS) | st.sampled_from(sorted(GROUPS))
unknown = st.builds(lambda k, i: k[:i] + k[i + 1 :], key, st.integers(0, 20)) | st.builds(
    "{}.{}".format, key, st.sampled_from(["x", "_target_", "_partial_", "_args_", "0", ""])
)
prefix = st.sampled_from(["", "", "", "+", "++", "~"])
group = st.sampled_from(sorted(GROUPS)).flatmap(
    lambda g: st.sampled_from(GROUPS[g]).map(lambda option: f"{g}={option}")
)
override = (
    st.builds("{}{}={}".format, prefix, key | unknown, value)
    | group
    | st.builds("~{}".format, key)
    | st.text(max_size=12).filter(lambda t: not t.startswith("-"))
).filter(lambda o: "hydra" not in o and "output_dir" not in o and "\0" not in o)


class TooLong(BaseException):
    """An example that does not end."""


@pytest.fixture(scope="module", autouse=True)
def _before_training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    def built(*args: Any) -> None:
        sys.exit(0)

    def late(*args: Any) -> None:
        raise TooLong

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        patch.setattr(train, "_fit", built)
        patch.setattr(train, "open_folder", lambda *args: None)
        before = signal.signal(signal.SIGALRM, late)
        yield
        signal.signal(signal.SIGALRM, before)


def ends_well(arguments: list[str]) -> None:
    """The command ends with status 0, or with status 2 and one line that says why."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["train.py", *arguments, "output_dir=outputs"])
        patch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
                cli.main(train.train, "train")
        finally:
            signal.alarm(0)
            GlobalHydra.instance().clear()
    lines = said.getvalue().strip().split("\n")
    assert "Traceback" not in said.getvalue()
    if ended.value.code:
        assert ended.value.code == 2
        assert [line.startswith("error: ") for line in lines].count(True) == 1, said.getvalue()
        assert lines[-1].startswith("error: "), said.getvalue()
        assert 10 < len(lines[-1]) < 5000, said.getvalue()


@pytest.mark.timeout(0)
@FUZZ
@given(st.sampled_from(BASES), st.lists(override, min_size=1, max_size=3))
def test_random_command_lines(base: list[str], overrides: list[str]) -> None:
    ends_well([*base, *overrides])


FILES = sorted(
    str(f.relative_to(cli.CONF)) for f in cli.CONF.rglob("*.yaml") if f.stem not in ("sample", "evaluate")
)
plain = st.sampled_from([yaml.safe_load(v) for v in NASTY if not set(v) & set("[]{}'\"\\@\t#~")]) | st.sampled_from(
    [None, [], {}, [1], {"a": 1}, {"_target_": "os.system"}, [[]], {1: 2}, {True: None}, 1e400, 10**30, "${oops}", "'"]
)  # fmt: skip


def _damaged(text: str, how: str, where: float, new: Any, character: str) -> str:
    if how == "text":
        at = int(where * len(text))
        return text[:at] + character + text[at + 1 :]
    if how == "cut":
        return text[: int(where * len(text))]
    header = "# @package _global_\n" if "@package _global_" in text else ""
    content = yaml.safe_load(text)
    names = [n for n in _leaves(content, "") if not n.startswith(("hydra", "output_dir"))] if content else []
    if not names:
        return header + yaml.safe_dump(new)
    *path, last = names[int(where * len(names))].split(".")
    node = content
    for part in path:
        node = node[part]
    if how == "delete":
        del node[last]
    else:
        node[last if how == "change" else f"{last}x"] = new
    return header + yaml.safe_dump(content)


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(cli.CONF, tmp_path_factory.mktemp("conf") / "conf"))


@pytest.mark.timeout(0)
@FUZZ
@given(
    st.sampled_from(FILES),
    st.sampled_from(["change", "change", "add", "delete", "text", "cut"]),
    st.floats(0, 1, exclude_max=True),
    plain,
    st.sampled_from(list(":[]{}'\"&*!|>%@`#-,? \n\t\0x1é")),
)
def test_damaged_files(conf: Path, file: str, how: str, where: float, new: Any, character: str) -> None:
    path = conf / file
    text = path.read_text()
    if file == "train.yaml" and how in ("text", "cut"):
        return  # there is Hydra's own node, which says where it writes
    chosen = [f"{path.parent.name}={path.stem}"] if path.parent != conf else []
    try:
        path.write_text(_damaged(text, how, where, new, character))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "CONF", conf)
            ends_well(chosen)
    finally:
        path.write_text(text)
