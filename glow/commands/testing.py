"""The test of a trained run: its best weights, raw and averaged."""

from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from glow.checkpoint import OTHER_VERSION, SavedModel, read_model
from glow.errors import UsageError
from glow.resilience import BestCheckpoint
from glow.resilience.checkpoints import last_checkpoint
from glow.resilience.lightning_internals import find_callback
from glow.training import EMA


class Test(NamedTuple):
    """What was tested, and the figures."""

    figures: dict[str, float]
    """Per kind of weights, ``raw`` and ``ema``, in the module's unit."""
    examples: int
    checkpoint: Path | None


def test_weights(trainer: L.Trainer, module: Any, data: L.LightningDataModule) -> Test:
    """Test the best weights by validation, else the last ones; averaged weights stay in the module."""
    best = _best(trainer)
    averaged = find_callback(trainer, EMA) is not None
    weights = {"ema" if averaged else "raw": module.flow.state_dict()}  # what a fit leaves in the module
    if best is not None:  # averaged ones last, so that the module keeps them for the picture
        weights = {kind: best.weights[kind] for kind in ("raw", "ema") if kind in best.weights}
    figures: dict[str, float] = {}
    examples = 0
    for kind, state in weights.items():
        try:
            module.flow.load_state_dict(state)
        except RuntimeError as error:
            raise UsageError(f"{best and best.path} {OTHER_VERSION}: start over with resume=false") from error
        module.test_name = "test_raw" if kind == "raw" and averaged else "test"
        metrics = trainer.test(module, data, verbose=False)
        if metrics:
            figures[kind] = metrics[0][f"{module.test_name}/{module.unit}"]
            examples = int(metrics[0][f"{module.test_name}/examples"])
    return Test(figures, examples, None if best is None else best.path)


def _best(trainer: L.Trainer) -> SavedModel | None:
    """The best checkpoint by validation if it is whole, else the last one, else None; on all devices the same."""
    found = None
    best = getattr(find_callback(trainer, BestCheckpoint), "best_model_path", "")
    for candidate in (best, str(last_checkpoint(trainer) or "")):
        if found is None and candidate and Path(candidate).is_file():
            try:
                found = read_model(Path(candidate))
            except UsageError as error:
                rank_zero_warn(f"{error}; it is not tested")
    path = trainer.strategy.broadcast(None if found is None else found.path)
    if found is not None and found.path == path:
        return found
    return None if path is None else read_model(path)
