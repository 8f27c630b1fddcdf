"""How good samples are, during training."""

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor

from glow.errors import UsageError, check_positive
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
        every_n_epochs: measure after the validation of every n-th epoch.
        n: samples, and at most so many validation images.
        temperature: of the samples.

    Raises:
        UsageError: in ``setup``, if the model is not of images, or there is no such network.
    """

    BATCH = 250

    def __init__(
        self,
        data: str,
        features: str | None = None,
        every_n_epochs: int = 5,
        n: int = 2000,
        temperature: float = 0.7,
    ) -> None:
        check_positive("callbacks.quality.every_n_epochs", every_n_epochs, integer=True)
        check_positive("callbacks.quality.n", n, integer=True)
        check_positive("callbacks.quality.temperature", temperature, zero=True)
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
            raise UsageError("callbacks=quality measures samples of images, and this model is not of images")
        from glow.evaluation.features import feature_network  # slow to import

        self._network = feature_network(self.features, self.data, shape[0], trainer.strategy.root_device)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
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
        source = generator("cpu", "quality", module.seed, trainer.global_rank)
        images = []
        for labels in torch.arange(share).split(self.BATCH):
            y = labels % flow.classes if flow.classes else None
            images.append(flow.sample(len(labels), temperature=self.temperature, y=y, generator=source).cpu())
        features = self._features(torch.cat(images), flow.grey_levels).to(module.device)
        gathered: Any = module.all_gather(features)
        return gathered.flatten(0, -2)[: self.n].cpu()

    def _quality(self, trainer: L.Trainer, module: DensityModule, drawn: Tensor) -> dict[str, float]:
        from glow.evaluation.quality import quality  # slow to import

        if self._real is None:
            loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
            x, _ = first_examples(loader, self.n, module.seed)
            assert module.flow.grey_levels is not None
            self._real = self._features(x, module.flow.grey_levels)
        return quality(self._real, drawn)
