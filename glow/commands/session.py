"""One call of ``sample`` or ``evaluate``: the flow, its settings, data, and the files that it writes."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from glow.checkpoint import Classes, SavedModel, read_model, resolve
from glow.commands.compiling import compile_steps
from glow.commands.inputs import choose_device, make_folder
from glow.commands.loading import SPLITS, Loaded, load, open_data
from glow.commands.sources import (
    Source,
    data_source,
    is_folder,
    named_classes,
    other_sources,
    refuse_model_settings,
    settings,
)
from glow.distributions.base import Distribution
from glow.errors import UsageError, check_choice
from glow.evaluation.latents import CPU_BATCH, Decoded, decode
from glow.evaluation.pictures import grid, save_picture
from glow.evaluation.signals import SAMPLE_RATE, signal_picture, write_wav
from glow.flows.flow import Flow
from glow.seeds import generator
from glow.weights import card, is_shipped

if TYPE_CHECKING:
    from glow.training.replay import Replayed

Model = TypeVar("Model", bound=Distribution)


@dataclass
class Session:
    """One call of a command. ``classes`` are those of the model that the command line names."""

    cfg: DictConfig
    saved: SavedModel
    density: Distribution
    classes: Classes = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    graphs: bool = False
    """Whether batches are replayed as CUDA graphs."""

    SHOWN: ClassVar[int] = 8
    """So many signals at most are in a picture."""

    @classmethod
    def open(cls, cfg: DictConfig) -> "Session":
        """The checkpoint that ``cfg.ckpt`` means, on the device that ``cfg.device`` does; prints which."""
        refuse_model_settings(cfg)
        for key in ("ckpt", "out", "output_dir"):
            if cfg[key] is not None and not isinstance(cfg[key], str):
                raise UsageError(f"{key} must be a path, got {cfg[key]!r}")
        if cfg.weights is not None:
            check_choice("weights", cfg.weights, ("ema", "raw"))
        torch.backends.cudnn.allow_tf32 = False  # as in training: float32 means IEEE
        saved, device = read_model(resolve(cfg.ckpt, cfg.output_dir)), choose_device(cfg.device)
        classes = named_classes(cfg, "model")
        flow = saved.flow(cfg.weights, classes).to(device)
        print(f"{saved.path}, {saved.steps:,} steps, on {device}", flush=True)
        session = cls(cfg, saved, flow, classes)
        if compile_steps(flow, cfg.get("compile", False)):
            from glow.training.replay import no_gpu, possible  # slow to import

            session.graphs = possible(no_gpu(device), "the command")
        return session

    @property
    def weights(self) -> str:
        """Which weights the flow has."""
        return self.cfg.weights or self.saved.best

    @property
    def seed(self) -> int:
        """Decides everything random: ``seed``, else the run's."""
        return self.saved.seed if self.cfg.seed is None else self.cfg.seed

    @cached_property
    def card(self) -> dict[str, Any]:
        """What is known of weights that come with the project."""
        return card(self.saved.path) if is_shipped(self.saved.path) else {}

    @property
    def flow(self) -> Flow:
        """The model, for what only flows can do."""
        if not isinstance(self.density, Flow):
            raise UsageError(f"mode={self.cfg.mode} needs a flow, and this model has no exact latents")
        return self.density

    @property
    def normal_flow(self) -> Flow:
        """The model, for what needs standard normal latents."""
        if not self.flow.base.is_normal:
            raise UsageError(
                f"mode={self.cfg.mode} needs a flow with a standard normal base: model.base=normal"
            )
        return self.flow

    @property
    def levels(self) -> int:
        """Grey levels."""
        assert self.density.grey_levels is not None
        return self.density.grey_levels

    @property
    def sample_rate(self) -> int:
        """Of signals, samples a second."""
        rate = ((self.saved.dataset or {}) | settings(self.cfg.dataset)).get("sample_rate")
        return rate if isinstance(rate, int) and 0 < rate < 2**31 else SAMPLE_RATE

    @cached_property
    def sources(self) -> tuple[Source, Source | None]:
        """The data, and the other data of ``ood``."""
        given = settings(self.cfg.dataset)
        if self.cfg.get("ood") is not None:
            return other_sources(str(self.cfg.ood), given, self.saved)
        return data_source(given, self.saved), None

    @cached_property
    def data(self) -> Loaded:
        """The chosen split of the data that the checkpoint or the command line names."""
        if self.cfg.split is not None:
            check_choice("split", self.cfg.split, SPLITS)
        return self.load(self.sources[0], self.cfg.split or self._default_split()).first(
            self.cfg.get("limit")
        )

    @cached_property
    def training(self) -> Loaded:
        """The training split of the same data."""
        return load(self.data.module, self.sources[0], "train", self.density)

    def _default_split(self) -> str:
        """``test``; of a folder that was not trained on and has no ``test``, all pictures."""
        config, own = self.sources[0].config, self.saved.dataset or {}
        other = is_folder(config) and config.get("root") != own.get("root")
        return "all" if other and not Path(str(config.get("root")), "test").is_dir() else "test"

    def load(self, source: Source, split: str) -> Loaded:
        """A split of some data."""
        module = open_data(source, self.density, self.saved.seed, named_classes(self.cfg, "dataset"))
        return load(module, source, split, self.density)

    def generator(self, purpose: str, *key: int) -> torch.Generator:
        """Random numbers that the seed decides, on the CPU."""
        return generator("cpu", purpose, self.seed, *key)

    @torch.no_grad()
    def encode(self, x: Tensor, y: Tensor | None) -> list[Tensor]:
        """Latents on the CPU."""
        device, size = self.flow.device, self.cfg.batch_size or CPU_BATCH
        encoded = [
            self.flow.encode(x[i : i + size].to(device), None if y is None else y[i : i + size].to(device))
            for i in range(0, len(x), size)
        ]
        return [torch.cat(scale).cpu() for scale in zip(*encoded, strict=True)]

    def decode(self, latents: Sequence[Tensor], y: Tensor | None, what: str = "samples") -> Decoded:
        """With a bar if it takes long; warns of what is wrong with the images."""
        with tqdm(total=len(latents[0]), desc=what, delay=2, disable=not sys.stderr.isatty()) as bar:
            generate = self.replayed(self.flow).generate
            decoded = decode(self.flow, latents, y, self.cfg.batch_size, bar.update, generate)
        for fault, indices, advice in (
            ("values that are not finite", decoded.not_finite,
             "; drawn black. A lower temperature or training with model.min_scale=0.1 helps"),
            ("one grey", decoded.one_grey, ""),
        ):  # fmt: skip
            if indices:
                first = f"{', '.join(map(str, indices[:10]))}{', ...' if len(indices) > 10 else ''}"
                print(
                    f"warning: {len(indices)} of {len(decoded.images)} {what} have {fault}: {first}{advice}"
                )
        return decoded

    def made(self, weights: str) -> Distribution:
        """The model once more, with other weights."""
        model = self.saved.flow(weights, self.classes).to(self.density.device)
        compile_steps(model, self.cfg.compile)
        return model

    def replayed(self, model: Model) -> "Model | Replayed":
        """What has the model's ``generate`` and ``log_prob``, for many batches of the same weights and guidance."""
        if not self.graphs:
            return model
        from glow.training.replay import Replayed  # slow to import

        return Replayed(model)

    def without_graphs(self, what: str) -> None:
        """Warn of what is not replayed, where that was asked for."""
        if self.graphs:
            from glow.training.replay import possible  # slow to import

            possible("only densities and the decoding of latents are replayed", what)

    def make_folder(self, default: str) -> None:
        """Choose where to write: ``out``, or a folder inside the run's."""
        run = self.saved.folder(self.cfg.output_dir)
        self.folder = make_folder(Path(self.cfg.out) if self.cfg.out else run / default)

    def draw_grid(
        self,
        images: Tensor,
        name: str,
        columns: int,
        *,
        title: str = "",
        heads: Sequence[str] = (),
        rows: Sequence[str] = (),
        labels: Tensor | None = None,
    ) -> None:
        """One picture of many images, with the words that ``grid`` takes."""
        picture = grid(images, self.levels, columns, title=title, heads=heads, rows=rows, labels=labels)
        self.save(picture, name)

    def draw_signals(self, signals: Tensor, name: str, *, title: str = "", rows: Sequence[str] = ()) -> None:
        """One picture of the first few signals, with the words that ``signal_picture`` takes."""
        shown = slice(self.SHOWN)
        if len(signals) > self.SHOWN:
            print(f"{name}.png shows the first {self.SHOWN} of {len(signals)} signals")
        self.save(
            signal_picture(signals[shown], self.levels, self.sample_rate, title=title, rows=rows[shown]), name
        )

    def save_signals(self, signals: Tensor, name: str, *, title: str = "", rows: Sequence[str] = ()) -> None:
        """A folder of WAV files, which are named by ``rows``, too, and a picture of the first few."""
        folder = self.new_folder(name)
        for i, signal in enumerate(signals):
            word = f"_{rows[i].replace(' ', '_')}" if rows else ""
            write_wav(signal, self.levels, self.sample_rate, folder / f"{i:06d}{word}.wav")
        self.draw_signals(signals, name, title=title, rows=rows)

    def new_folder(self, name: str) -> Path:
        """An empty folder for files of this call, without those of another one."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.files.append(name)
        return folder

    def save(self, picture: Tensor, name: str) -> None:
        """Write a picture."""
        save_picture(picture, self.folder / f"{name}.png")
        self.files.append(f"{name}.png")

    def write_report(self, report: dict[str, Any], name: str) -> None:
        """Write the report as JSON."""
        (self.folder / name).write_text(json.dumps(report, indent=2) + "\n")
