"""An option is used exactly as its file says, whatever else is chosen."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from glow.commands.main import CONF

GROUPS = (
    "model",
    "optimizer",
    "schedule",
    "fit",
    "ema",
    "sample_quality",
    "trainer",
    "callbacks",
    "resilience",
    "logger",
    "objective",
)
CALLBACKS = ("ema", "sample_quality")
"""Groups whose node is a callback."""
OPTIONS = {g: sorted(f.stem for f in (CONF / g).glob("*.yaml")) for g in (*GROUPS, "dataset", "experiment")}
CHOICES = [(g, o) for g in GROUPS for o in OPTIONS[g]]


TYPED = [
    {g: OPTIONS[g][i % len(OPTIONS[g])] for g in GROUPS} for i in range(max(len(OPTIONS[g]) for g in GROUPS))
]
"""An option of every group at once, so that each option of each group is among them."""


@pytest.fixture(autouse=True)
def _conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def contents(group: str, option: str) -> Any:
    """What an option's file says, on top of the options of its group that it builds on; interpolations as written."""
    file = OmegaConf.load(CONF / group / f"{option}.yaml")
    assert isinstance(file, DictConfig)
    below = [d for d in file.pop("defaults", []) if isinstance(d, str) and d != "_self_"]
    merged = OmegaConf.merge(*(OmegaConf.create(contents(group, d)) for d in below), file)
    return OmegaConf.to_container(merged)


def nodes(*overrides: str) -> dict[str, Any]:
    """The node of every group as composed; interpolations as written."""
    cfg: Any = OmegaConf.to_container(compose("train", list(overrides)))
    single = {g: cfg["callbacks"].pop(g, None) for g in CALLBACKS}
    return {g: cfg[g] for g in (*GROUPS, "dataset") if g not in CALLBACKS} | single


def node_of(group: str, option: str) -> Any:
    content = contents(group, option)
    return content.get(group, content) if group in CALLBACKS else content


def expected(dataset: str, experiment: str | None, **typed: str) -> dict[str, Any]:
    """The node of every group by the files of the options that are chosen."""
    chosen: dict[str, str] = {}
    for group, option in (("dataset", dataset), ("experiment", experiment)):
        if option is not None:
            chosen |= overridden(group, option)
    chosen |= typed
    found = {g: node_of(g, o) for g, o in chosen.items() if g in GROUPS}
    found["dataset"] = contents("dataset", dataset)["dataset"]
    if experiment is not None:
        own = contents("experiment", experiment)
        assert own.keys() <= {"dataset", "fit", "name", "shift"}, "an experiment writes nowhere else"
        for group in own.keys() & {"dataset", "fit"}:
            found[group] = OmegaConf.to_container(
                OmegaConf.merge(found.get(group, {}), {} if group in typed else own[group])
            )
    return found


@cache
def overridden(group: str, option: str) -> dict[str, str]:
    """The options of other groups that an option chooses."""
    file: Any = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
    chosen: dict[str, str] = {}
    for line in file.get("defaults", []):
        if isinstance(line, str):
            chosen |= overridden(group, line) if line != "_self_" else {}
        else:
            ((key, value),) = line.items()
            chosen[key.removeprefix("override /")] = value
    return chosen


def check(dataset: str, experiment: str | None, **typed: str) -> None:
    command = [f"{g}={o}" for g, o in typed.items()]
    command += [f"experiment={experiment}"] if experiment else [f"dataset={dataset}"]
    composed = nodes(*command)
    for group, node in expected(dataset, experiment, **typed).items():
        assert composed[group] == node, f"{' '.join(command)}: {group}"


def dataset_of(experiment: str) -> str:
    return overridden("experiment", experiment)["dataset"]


@pytest.mark.parametrize("dataset", OPTIONS["dataset"])
def test_a_dataset_chooses_options_and_writes_into_none(dataset: str) -> None:
    file: Any = OmegaConf.load(CONF / "dataset" / f"{dataset}.yaml")
    assert set(file) <= {"defaults", "dataset"}
    check(dataset, None)


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_what_is_typed_is_used_with_every_dataset(group: str, option: str) -> None:
    """One dataset of images and one of points; all of them in the slow test below."""
    for dataset in ("fashion_mnist", "rings"):
        check(dataset, None, **{group: option})


@pytest.mark.parametrize("experiment", OPTIONS["experiment"])
def test_an_experiment_chooses_options(experiment: str) -> None:
    check(dataset_of(experiment), experiment)


ALIKE = [
    [d for d in OPTIONS["dataset"] if overridden("dataset", d) == chosen]
    for chosen in map(
        dict, sorted({tuple(sorted(overridden("dataset", d).items())) for d in OPTIONS["dataset"]})
    )
]
"""Datasets that choose the same options: the other groups of a composition cannot differ between them."""


@pytest.mark.slow
@pytest.mark.parametrize("dataset", OPTIONS["dataset"])
def test_every_option_with_every_dataset(dataset: str) -> None:
    """Datasets that are alike share the options: each takes a quarter where they are four or more."""
    (alike,) = (datasets for datasets in ALIKE if dataset in datasets)
    share = min(len(alike), 4)
    for typed in TYPED[alike.index(dataset) % share :: share]:
        check(dataset, None, **typed)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", OPTIONS["experiment"])
@pytest.mark.parametrize("alike", ALIKE, ids=[datasets[0] for datasets in ALIKE])
def test_every_option_with_every_dataset_and_experiment(alike: list[str], experiment: str) -> None:
    """A quarter of the options with each pair, another one with the next; of datasets that are alike, one after the other."""
    turn = OPTIONS["experiment"].index(experiment)
    dataset = alike[turn % len(alike)]
    for typed in TYPED[(turn + ALIKE.index(alike)) % 4 :: 4]:
        command = [f"experiment={experiment}", f"dataset={dataset}", *(f"{g}={o}" for g, o in typed.items())]
        composed, files = nodes(*command), expected(dataset, experiment, **typed)
        for group in GROUPS:
            assert composed[group] == files[group], f"{' '.join(command)}: {group}"


@pytest.mark.parametrize(
    "group", [g for g in GROUPS if g not in ("model", "trainer", "callbacks", "sample_quality")]
)
def test_only_models_trainer_and_callbacks_read_other_nodes(group: str) -> None:
    for option in OPTIONS[group]:
        text = (CONF / group / f"{option}.yaml").read_text().replace("${run_dir}", "").replace("${shift}", "")
        assert "${" not in text, option


def test_the_lists_of_groups_are_complete() -> None:
    assert {d.name for d in CONF.iterdir() if d.is_dir()} == {*GROUPS, "dataset", "experiment", "debug"}
