"""One call of ``sample``: the flow, its settings, real images, and the files that it writes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from glow.checkpoint import SavedModel
from glow.commands.inputs import (
    as_list,
    check_index,
    dataset_config,
    labels_for,
    load_split,
    make_folder,
    picture_files,
)
from glow.data.base import Arrays
from glow.distributions.base import Distribution
from glow.errors import UsageError, check_positive
from glow.evaluation.latents import CPU_BATCH, Decoded, decode
from glow.evaluation.pictures import grid, save_picture
from glow.flows.flow import Flow
from glow.seeds import generator


@dataclass
class Session:
    """One call of the command: the flow, its settings, and the files that it writes."""

    cfg: DictConfig
    saved: SavedModel
    density: Distribution

    def __post_init__(self) -> None:
        self.folder = make_folder(Path(self.cfg.out) if self.cfg.out else self.saved.folder / "samples")
        self.files: list[Path] = []

    @property
    def flow(self) -> Flow:
        """The model, for what only flows can do."""
        if not isinstance(self.density, Flow):
            raise UsageError(f"mode={self.cfg.mode} needs a flow, and this model has no exact latents")
        return self.density

    @property
    def levels(self) -> int:
        """Grey levels."""
        assert self.density.grey_levels is not None
        return self.density.grey_levels

    @cached_property
    def split(self) -> Arrays:
        """The chosen split of the data that the checkpoint or the command line names."""
        return load_split(
            dataset_config(self.cfg.dataset, self.saved), self.cfg.split, self.flow, self.saved.seed
        )[1]

    def random(self, purpose: str) -> torch.Generator:
        """Numbers that the seed decides."""
        return generator("cpu", purpose, self.cfg.seed)

    def temperatures(self, default: float) -> list[float]:
        """``temperature`` as a list."""
        given = self.cfg.temperature
        values = [default] if given is None else as_list("temperature", given)
        for value in values:
            check_positive("temperature", value)
        return list(dict.fromkeys(values))

    def temperature(self, default: float) -> float:
        """``temperature`` where there can be only one."""
        values = self.temperatures(default)
        if len(values) > 1:
            raise UsageError(f"mode={self.cfg.mode} takes one temperature, got {values}")
        return values[0]

    def labels(self, n: int) -> Tensor | None:
        """Labels for ``n`` samples: the classes in turn, or what ``label`` says."""
        label, classes = self.cfg.label, self.density.classes
        if not classes:
            if label is not None:
                raise UsageError(f"label={label} was given, but this model is not class-conditional")
            return None
        if label == "all":
            return torch.arange(classes).repeat_interleave(-(-n // classes))
        wanted = list(range(classes)) if label is None else as_list("label", label)
        for value in wanted:
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < classes:
                raise UsageError(
                    f"label must be from 0 to {classes - 1}, a list of these, or all; got {label}"
                )
        return torch.tensor(wanted).repeat(-(-n // len(wanted)))[:n]

    def images(
        self, default: Sequence[int], counts: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The real images of the settings, uint8 (N, C, H, W), and their labels for a class-conditional model."""
        given = self.cfg.images
        chosen = list(default) if given is None else as_list("images", given)
        if counts and len(chosen) not in counts:
            many = " or ".join(map(str, counts))
            raise UsageError(f"mode={self.cfg.mode} takes {many} images, got images={chosen}")
        if all(isinstance(c, str) for c in chosen):
            return self.labelled(picture_files(list(map(str, chosen)), self.flow))
        x, y = self.split
        index = [check_index("images", c, len(x)) for c in chosen]
        return self.labelled(x[index], None if y is None else y[index])

    def labelled(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Images with their labels, or those of ``label`` if it is set, for a class-conditional model."""
        if self.cfg.label is not None:
            if self.cfg.label == "all":
                raise UsageError(f"label=all is for mode=samples, not for mode={self.cfg.mode}")
            y = self.labels(len(x))
        return x, labels_for(self.flow, y, "these images")

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
        """With a bar if it takes long; tells what is wrong with the images."""
        with tqdm(total=len(latents[0]), desc=what, delay=2, disable=not sys.stderr.isatty()) as bar:
            decoded = decode(self.flow, latents, y, self.cfg.batch_size, bar.update)
        for wrong, indices in (
            ("values that are not finite", decoded.not_finite),
            ("one grey", decoded.one_grey),
        ):
            if indices:
                print(
                    f"warning: {len(indices)} of {len(decoded.images)} {what} have {wrong}: "
                    f"{', '.join(map(str, indices[:10]))}{', ...' if len(indices) > 10 else ''}"
                    + ("; drawn black. A lower temperature or training with model.min_scale=0.1 helps"
                       if wrong.startswith("values") else "")
                )  # fmt: skip
        return decoded

    def draw_grid(self, images: Tensor, name: str, columns: int) -> None:
        """One picture of many images."""
        self.keep(grid(images, self.levels, columns), name)

    def keep(self, picture: Tensor, name: str) -> None:
        """Write a picture."""
        path = self.folder / f"{name}.png"
        save_picture(picture, path)
        self.files.append(path)
