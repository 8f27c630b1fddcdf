"""Samples during training."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import DiskFullError, UsageError, check_positive
from glow.evaluation.bits import evaluation_noise
from glow.evaluation.pictures import sample_grid, save_picture, temperature_grid
from glow.evaluation.signals import SAMPLE_RATE, signal_picture
from glow.flows.flow import Flow
from glow.resilience.lightning_internals import find_callback
from glow.resilience.storage import disk_full_errors
from glow.seeds import generator
from glow.training.ema import EMA
from glow.training.initialize import first_examples, initialization_batch
from glow.training.module import DensityModule


class Pictures(L.Callback):
    """Draw samples from fixed latents after validations, as PNG and in TensorBoard.

    Images give a grid of samples, signals their waveforms and spectrograms, points in the plane the density beside data and
    samples, or given an observation the posterior's samples. With an ``EMA`` they show the averaged weights.

    Args:
        dirpath: folder of the PNG files.
        every_n_epochs: draw after the validation of every n-th epoch.
        n: images in a grid.
        temperature: of the samples during training.
        temperatures: rows of the grid at the end.
        columns: columns of the grid at the end.
    """

    HISTOGRAM = 64
    """At most so many examples of the first validation batch have their latents shown."""

    SIGNALS = 4
    """At most so many samples of signals are shown."""

    POINTS = 10_000
    """At most so many training points are shown beside the learned density."""

    OF_POSTERIOR = 1_000
    """Samples that are shown of a posterior."""

    def __init__(
        self,
        dirpath: str,
        every_n_epochs: int = 1,
        n: int = 36,
        temperature: float = 0.7,
        temperatures: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        columns: int = 10,
    ) -> None:
        check_positive("callbacks.pictures.every_n_epochs", every_n_epochs, integer=True)
        check_positive("callbacks.pictures.n", n, integer=True)
        check_positive("callbacks.pictures.columns", columns, integer=True)
        if not temperatures:
            raise UsageError("callbacks.pictures.temperatures is empty: give at least one")
        for value in (temperature, *temperatures):
            check_positive("callbacks.pictures.temperature", value)
        self.dirpath = Path(dirpath)
        self.every_n_epochs = every_n_epochs
        self.n = n
        self.temperature = temperature
        self.temperatures = tuple(temperatures)
        self.columns = columns

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due and trainer.state.fn == "fit" and not trainer.sanity_checking:
            assert isinstance(pl_module, DensityModule)
            ema = find_callback(trainer, EMA)
            with ema.averaged(pl_module) if ema else nullcontext():
                self.draw(trainer, pl_module, f"step_{trainer.global_step:07d}")
                self.log_latents(trainer, pl_module)

    @rank_zero_only
    def draw(self, trainer: L.Trainer, module: DensityModule, name: str) -> Path | None:
        """Draw samples of the module's present weights; returns the file, or None if this data has no picture."""
        flow, source = module.flow, generator("cpu", "samples", module.seed)
        if flow.kind == "signals" and flow.grey_levels is not None:
            drawn = flow.sample(min(self.n, self.SIGNALS), temperature=self.temperature, generator=source)
            picture = _signals(trainer, flow, drawn, title=f"temperature {self.temperature:g}")
        elif flow.grey_levels is not None:
            picture = sample_grid(flow, self.n, self.temperature, source)
        elif flow.event_shape == (2,) and flow.observed:
            from glow.evaluation.plane import scatter_picture

            picture = scatter_picture(_posteriors(trainer, module, source))
        elif flow.event_shape == (2,):
            from glow.evaluation.plane import plane_picture  # slow to import, and images need none of it

            picture = plane_picture(flow, _training_points(trainer, self.POINTS, module.seed), source)
        else:
            return None
        return self._save(trainer, picture, name, "samples")

    @rank_zero_only
    @torch.no_grad()
    def log_latents(self, trainer: L.Trainer, module: DensityModule) -> None:
        """Histograms of validation examples' latents in TensorBoard, per scale: a good flow's are standard normal."""
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        if loggers and isinstance(module.flow, Flow):
            loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
            x, y = first_examples(loader, self.HISTOGRAM, module.seed)
            x = x.to(module.device, module.flow.dtype if x.is_floating_point() else None)
            # Uniform dequantization noise, for which the density of images is trained.
            noise = evaluation_noise(module.flow, len(x), "latents", module.seed, 0)
            labels = y.to(module.device) if module.flow.conditional and y is not None else None
            for i, z in enumerate(module.flow.encode(x, labels, noise), 1):
                z = z[z.isfinite()].float()
                for logger in loggers:
                    if len(z):  # TensorBoard has no empty histogram
                        logger.experiment.add_histogram(f"latents/scale_{i}", z, trainer.global_step)

    @rank_zero_only
    def draw_final(self, trainer: L.Trainer, module: DensityModule) -> Path | None:
        """The grid of temperatures of images, a signal for each, or the density of points once more."""
        if module.flow.grey_levels is None:
            return self.draw(trainer, module, "density")
        source = generator("cpu", "samples", module.seed)
        if module.flow.kind == "signals":
            drawn = [module.flow.sample(1, temperature=t, generator=source) for t in self.temperatures]
            rows = [f"T = {t:g}" for t in self.temperatures]
            picture = _signals(trainer, module.flow, torch.cat(drawn), rows=rows)
        else:
            picture = temperature_grid(module.flow, self.temperatures, self.columns, source)
        return self._save(trainer, picture, "temperatures", "temperatures")

    def _save(self, trainer: L.Trainer, picture: Tensor, name: str, tag: str) -> Path | None:
        path = self.dirpath / f"{name}.png"
        try:
            with disk_full_errors(path):
                save_picture(picture, path)
        except DiskFullError as error:
            path.unlink(missing_ok=True)
            rank_zero_warn(f"{error}; going on without this picture")
            return None
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(tag, picture, trainer.global_step)
        return path


def _posteriors(trainer: L.Trainer, module: DensityModule, source: torch.Generator) -> dict[str, Tensor]:
    """Samples given the first validation observation, beside those of the known posterior if the data has one."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    _, y = first_examples(data.val_dataloader(), 1, module.seed)
    assert y is not None
    drawn = module.flow.sample(Pictures.OF_POSTERIOR, y=y[0], generator=source).cpu()
    points = {"posterior, by the flow": drawn}
    if hasattr(data, "posterior"):
        points["known posterior"] = data.posterior(y[0], Pictures.OF_POSTERIOR, module.seed)
    return points


def _signals(trainer: L.Trainer, flow: Distribution, drawn: Tensor, **words: Any) -> Tensor:
    assert flow.grey_levels is not None
    rate = getattr(trainer.datamodule, "sample_rate", SAMPLE_RATE)  # type: ignore[attr-defined]
    return signal_picture(drawn.cpu(), flow.grey_levels, rate, **words)


def _training_points(trainer: L.Trainer, n: int, seed: int) -> Tensor:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if hasattr(data, "arrays"):
        return data.arrays("train")[0]
    return initialization_batch(trainer, n, seed)[0]
