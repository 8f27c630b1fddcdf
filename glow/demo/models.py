"""The models on the page, by names that stand in addresses."""

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from glow.checkpoint import read_model, resolve
from glow.commands.inputs import choose_device
from glow.commands.main import compose
from glow.commands.session import Session
from glow.commands.sources import data_source
from glow.errors import UsageError, check_choice
from glow.flows.flow import Flow
from glow.weights import shipped

MOST_MODELS = 3
"""Models that are kept in memory."""
MOST_RESULTS = 32
"""Results that are kept of each model: drawn grids, latents of images, means of groups."""


class Results(OrderedDict[Hashable, Any]):
    """The last results, so that moving a slider does not compute everything from the beginning."""

    def get_or(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is kept under the key, or else made and kept."""
        if key not in self:
            self[key] = make()
        self.move_to_end(key)
        while len(self) > MOST_RESULTS:
            self.popitem(last=False)
        return self[key]


class Opened(NamedTuple):
    """A model in memory."""

    session: Session
    """Without settings; what it has loaded of the data serves all calls."""
    results: Results


class Models:
    """Weights that come with the project, runs below ``output_dir``, and the file that the command line names.

    A name is looked up among these: nothing that a visitor sends is ever a path.

    Args:
        cfg: the composed ``conf/demo.yaml``.

    Raises:
        UsageError: ``ckpt`` or ``device`` cannot work.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.cfg, self.output_dir, self.device = cfg, Path(cfg.output_dir), choose_device(cfg.device)
        self.base = compose("sample")
        self.base.merge_with({key: cfg[key] for key in ("output_dir", "weights", "device")})
        self.given: dict[str, Path] = {}
        self.first: str | None = None
        self._opened: OrderedDict[tuple[Path, int], Opened] = OrderedDict()
        if cfg.ckpt is not None:
            path = resolve(cfg.ckpt, cfg.output_dir)
            read_model(path)  # raises at the start rather than on the page
            if path not in self.paths().values():
                self.given = {f"file/{Path(cfg.ckpt).stem}": path}
            self.first = next(name for name, p in self.paths().items() if p == path)

    def paths(self) -> dict[str, Path]:
        """The files of the models by name."""
        runs = {}
        for name, folder in runs_below(self.output_dir).items():
            for kind in ("last", "best"):
                if (path := folder / f"checkpoints/{kind}.ckpt").is_file():
                    runs[f"runs/{name}"] = path
        return self.given | shipped() | runs

    def list(self) -> list[dict[str, Any]]:
        """For each model its name and its kind: ``images``, ``signals``, ``points``, or else null."""
        return [
            {"name": name, "kind": _kind(path, path.stat().st_mtime_ns)}
            for name, path in self.paths().items()
        ]

    def open(self, name: str) -> Opened:
        """A model, read again where its file has changed.

        Raises:
            UsageError: there is no such model, or its file cannot be read.
        """
        paths = self.paths()
        check_choice("model", name, paths)
        key = (paths[name], paths[name].stat().st_mtime_ns)
        if key not in self._opened:
            saved = read_model(paths[name])
            session = Session(self.base, saved, saved.flow(self.cfg.weights).to(self.device))
            if saved.dataset is not None:
                root = self.cfg.dataset.root
                given = {"root": root} if root and {"kind", "root"} <= saved.dataset.keys() else {}
                # As if it was not typed: nothing is downloaded, and nothing written.
                session.sources = (data_source(given, saved)._replace(typed=False), None)
            self._opened[key] = Opened(session, Results())
        self._opened.move_to_end(key)
        while len(self._opened) > MOST_MODELS:
            self._opened.popitem(last=False)
        return self._opened[key]

    def session(self, name: str, **settings: Any) -> Session:
        """A call of ``sample`` with these settings of ``conf/sample.yaml``; see ``open``."""
        session = copy.copy(self.open(name).session)
        session.cfg = cast(DictConfig, OmegaConf.merge(self.base, settings))
        session.files = []
        return session

    def describe(self, name: str) -> dict[str, Any]:
        """What the page must know of a model; see ``open``."""
        session = self.open(name).session
        density, saved = session.density, session.saved
        try:
            examples, y = len(session.data.x), session.data.y
        except UsageError:  # the data is not on this machine
            examples, y = 0, None
        return {
            "name": name, "kind": density.kind, "shape": list(density.event_shape), "levels": density.grey_levels,
            "classes": density.classes, "steps": saved.steps, "recipe": type(density).__name__,
            "latents": isinstance(density, Flow) and density.base.is_normal,
            "scales": [list(s) for s in density.latent_shapes] if isinstance(density, Flow) else [],
            "examples": examples, "labels": [] if y is None else y.unique().tolist(),
        }  # fmt: skip


def runs_below(folder: Path) -> dict[str, Path]:
    """The folders of runs, by their paths below ``folder``, sorted."""
    return dict(sorted((path.relative_to(folder).as_posix(), path) for path in _runs(folder)))


def _runs(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if "config.yaml" in files:
            folders.clear()  # what lies below belongs to the run
            yield Path(path)


@lru_cache(1000)
def _kind(path: Path, changed: int) -> str | None:
    config = path.parents[1] / "config.yaml"
    try:  # of a run this is much faster than reading the checkpoint
        model = yaml.safe_load(config.read_text())["model"] if config.is_file() else read_model(path).model
        return {2: "signals", 3: "images"}.get(len(model["event_shape"]), "points")
    except (OSError, UsageError, yaml.YAMLError, LookupError, TypeError):
        return None
