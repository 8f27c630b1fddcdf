"""How good samples are, during training."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from glow.errors import UsageError, check_positive
from glow.evaluation.latents import decode
from glow.flows.flow import Flow
from glow.resilience.lightning_internals import find_callback
from glow.seeds import generator
from glow.training.ema import EMA
from glow.training.initialize import first_examples
from glow.training.module import DensityModule

if TYPE_CHECKING:
    from glow.evaluation.features import FeatureNetwork


class SampleQuality(L.Callback):
    """Log FID, KID, precision and recall of samples against validation images (``glow.evaluation.quality``).

    They are ``quality/fid`` and so on, of the averaged weights where there are some. Every device draws its share of the
    samples; those of class-conditional models go through the labels in turn. FID falls with the number of images, so that only
    figures of the same ``n`` and the same number of validation images compare.

    Args:
        data: name of the data.
        features: see ``glow.evaluation.features.feature_network``.
        every_n_epochs: measure after the validation of every n-th epoch, or else the next one.
        n: samples, and at most so many validation images.
        temperature: of the samples.

    Raises:
        UsageError: a number is out of range; in ``setup``, if the model is not of images, or there is no such network.
    """

    LEAST = 10
    """The fewest samples of which something can be said."""

    def __init__(
        self,
        data: str,
        features: str | None = None,
        every_n_epochs: int = 1,
        n: int = 2000,
        temperature: float = 0.7,
    ) -> None:
        check_positive("callbacks.sample_quality.every_n_epochs", every_n_epochs, integer=True)
        check_positive("callbacks.sample_quality.n", n, integer=True)
        if n < self.LEAST:
            raise UsageError(f"callbacks.sample_quality.n must be at least {self.LEAST}, got {n}")
        check_positive("callbacks.sample_quality.temperature", temperature, zero=True)
        self.data, self.features = data, features
        self.every_n_epochs, self.n, self.temperature = every_n_epochs, n, temperature
        self._network: FeatureNetwork | None = None
        self._real: Tensor | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        assert isinstance(pl_module, DensityModule)
        shape = pl_module.flow.event_shape
        if pl_module.flow.grey_levels is None or len(shape) != 3:
            raise UsageError(
                "sample_quality=logged measures samples of images, and this model is not of images"
            )
        from glow.evaluation.features import feature_network  # slow to import

        self._network = feature_network(self.features, self.data, shape[0], trainer.strategy.root_device)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        n, done = self.every_n_epochs, trainer.current_epoch + 1
        due = done // n > (done - (trainer.check_val_every_n_epoch or 1)) // n
        if due and trainer.state.fn == "fit" and not trainer.sanity_checking:
            assert isinstance(pl_module, DensityModule)
            ema = find_callback(trainer, EMA)
            with ema.averaged(pl_module) if ema else nullcontext():
                drawn = self._drawn(trainer, pl_module)
            found = self._quality(trainer, pl_module, drawn) if trainer.is_global_zero else {}
            for name, value in trainer.strategy.broadcast(found).items():
                pl_module.log(f"quality/{name}", value, sync_dist=True)  # the same on all devices

    def _features(self, images: Tensor, grey_levels: int) -> Tensor:
        from glow.evaluation.features import features_of  # slow to import

        assert self._network is not None
        return features_of(self._network, images, grey_levels, "quality")[0]

    @torch.no_grad()
    def _drawn(self, trainer: L.Trainer, module: DensityModule) -> Tensor:
        """Features of all devices' samples (n, D)."""
        flow, share = module.flow, -(-self.n // trainer.world_size)
        assert flow.grey_levels is not None
        source, y = generator("cpu", "quality", module.seed, trainer.global_rank), None
        if flow.classes:
            y = torch.arange(share) % flow.classes
        if isinstance(flow, Flow):
            latents = flow.sample_latents(share, temperature=self.temperature, generator=source)
            images = decode(flow, latents, y).images
        else:
            images = flow.sample(share, temperature=self.temperature, y=y, generator=source).cpu()
        features = self._features(images, flow.grey_levels).to(module.device)
        gathered: Any = module.all_gather(features)
        return gathered.flatten(0, -2)[: self.n].cpu()

    def _quality(self, trainer: L.Trainer, module: DensityModule, drawn: Tensor) -> dict[str, float]:
        from glow.evaluation.quality import quality  # slow to import

        if self._real is None:
            assert module.flow.grey_levels is not None
            self._real = self._features(
                _validation_images(trainer, self.n, module.seed), module.flow.grey_levels
            )
        return quality(self._real, drawn)


def _validation_images(trainer: L.Trainer, n: int, seed: int) -> Tensor:
    """Some that the seed chooses, of all devices' (n, C, H, W)."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not hasattr(data, "examples"):
        return first_examples(data.val_dataloader(), n, seed)[0]
    images = data.examples["val"]
    return images.take(torch.randperm(len(images), generator=generator("cpu", "real", seed))[:n]).arrays()[0]
