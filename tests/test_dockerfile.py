"""What the Dockerfile names is there. scripts/build_image.sh builds it, which takes half an hour."""

from __future__ import annotations

import fnmatch
import re
import tomllib

from glow.commands.main import CONF

ROOT = CONF.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", "")


def test_its_files_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [
        word
        for line in re.findall(r"^COPY --chown=glow (.+)", DOCKERFILE, re.M)
        for word in line.split()[:-1]
    ]
    (script,) = re.findall(r'^ENTRYPOINT \["python", "(.+)"\]', DOCKERFILE, re.M)
    (constraints,) = set(re.findall(r"--constraint (\S+)", DOCKERFILE))
    assert {"pyproject.toml", constraints, "."} <= set(copied)
    for name in (*copied, script):
        assert (ROOT / name).exists(), name
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in ignored), name


def test_its_package_needs_no_other_files() -> None:
    """The dependencies are installed before the sources are copied."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    before = DOCKERFILE[: DOCKERFILE.index("--editable .")]
    for name in (project["readme"], *project["license-files"]):
        assert name in before, name
    for extra in re.findall(r"--editable '\.\[(\w+)\]'", DOCKERFILE):
        assert extra in project["optional-dependencies"], extra


def test_its_targets_are_those_that_are_built() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.M)
    script = (ROOT / "scripts" / "build_image.sh").read_text()
    assert sorted(re.findall(r"^make_container (\w+) ", script, re.M)) == sorted(stages)
    assert DOCKERFILE.endswith("\nFROM glow\n"), "without --target, docker builds the last"
