"""``python train.py``: train a flow, test it and leave everything in one folder."""

from __future__ import annotations

import json
import signal
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from omegaconf import DictConfig, OmegaConf

from glow.checkpoint import OTHER_VERSION, SavedModel, read_model
from glow.commands.allocator import keep_freed_memory
from glow.commands.build import build, check_settings
from glow.commands.report import callback_of, inside, say_results, say_start, summary, write_results
from glow.commands.targets import check_folders, check_targets
from glow.data import ArrayData
from glow.errors import UsageError
from glow.fused.products import has_fast_kernels
from glow.resilience import BestCheckpoint, LastCheckpoint, StopOnSignal
from glow.resilience.checkpoints import last_checkpoint
from glow.resilience.environments import meet_anew
from glow.resilience.lock import locked
from glow.resilience.run_folder import check_same, choose_folder, is_finished, open_folder
from glow.resilience.storage import told_when_full
from glow.training import EMA, FlowModule, Pictures


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured, or continue a run that was stopped.

    Args:
        cfg: the composed ``conf/train.yaml``.

    Returns:
        What ``results.json`` holds.

    Raises:
        UsageError: a setting that cannot work.
        NonFiniteError: training diverged.
        SystemExit: once the state is saved, 128 and the signal's number: 143 after SIGTERM, 130 after SIGINT (Ctrl-C),
            138 after SIGUSR1.
    """
    check_settings(cfg)
    folder = choose_folder(cfg)
    cfg.run_dir = str(folder)
    OmegaConf.resolve(cfg)
    plain: Any = OmegaConf.to_container(cfg)
    check_targets(plain)
    check_folders(plain, cfg.run_dir)
    if check_same(folder, cfg) and is_finished(folder, cfg):
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
        print(f"{folder} is finished; raise its trainer.max_* to go on, or start over with resume=false")
        say_results(results, folder)
        return results

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.backends.cudnn.allow_tf32 = False  # float32 means IEEE; bf16-mixed is the faster choice
    keep_freed_memory()
    data, module, trainer = build(cfg)
    with locked(folder) if trainer.is_global_zero else nullcontext():
        if trainer.is_global_zero:
            check_same(folder, cfg)  # once more: it may have been another's until now
            open_folder(folder, cfg)
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if on_cpu and cfg.trainer.precision in ("bf16-mixed", "16-mixed") and not has_fast_kernels(torch.bfloat16):
            rank_zero_warn(
                f"trainer.precision={cfg.trainer.precision}: this CPU has no bf16 arithmetic, so that a step takes several "
                "times as long as with trainer.precision=32-true"
            )
        last = callback_of(trainer, LastCheckpoint)
        checkpoint = last.newest_whole() if last else None
        say_start(cfg, module, trainer, folder, checkpoint)
        if checkpoint is not None:
            module.flow.initialized = True  # by what the checkpoint holds
        meet_anew()
        _fit(cfg, trainer, module, data, checkpoint)
        with told_when_full(folder):
            return _finish(cfg, trainer, module, data, folder)


def _fit(
    cfg: DictConfig, trainer: L.Trainer, module: FlowModule, data: ArrayData, checkpoint: Path | None
) -> None:
    try:
        with told_when_full(Path(cfg.run_dir)):
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    except SIGTERMException:
        _leave(cfg, trainer)
    except SystemExit:  # Lightning's answer to a second Ctrl-C
        sys.exit(130)
    except RuntimeError as error:
        if checkpoint is not None and "Error(s) in loading state_dict" in str(error):
            raise UsageError(f"{checkpoint} {OTHER_VERSION}: start over with resume=false") from error
        raise
    except (TypeError, ValueError, ImportError, MisconfigurationException) as error:
        # What Lightning itself refuses is a setting of the trainer; the rest are errors of ours.
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, UsageError) or "lightning" not in Path(frames[-1].filename).parts:
            raise
        raise UsageError(f"trainer: {str(error).strip()}") from error


def _leave(cfg: DictConfig, trainer: L.Trainer) -> None:
    stop = callback_of(trainer, StopOnSignal)
    received = stop.received if stop is not None else None
    if trainer.is_global_zero:
        kept = last_checkpoint(trainer)
        name = Path(cfg.run_dir).relative_to(cfg.output_dir)
        how = "repeat the command" + ("" if cfg.resume else f" with name={name} resume=true")
        print(
            f"stopped at step {trainer.global_step}; "
            + (f"to continue, {how}" if kept else "nothing was kept"),
            flush=True,
        )
    sys.exit(128 + (received or signal.SIGTERM))


def _finish(
    cfg: DictConfig, trainer: L.Trainer, module: FlowModule, data: ArrayData, folder: Path
) -> dict[str, Any]:
    """Test the best weights, raw and averaged; write ``results.json``; draw the last picture."""
    stop = callback_of(trainer, StopOnSignal)
    stopped = stop is not None and stop.received is not None  # during the last validation
    if trainer.strategy.reduce_boolean_decision(stopped, all=False):
        _leave(cfg, trainer)
    best = _best(trainer)
    averaged = callback_of(trainer, EMA) is not None
    weights = {"ema" if averaged else "raw": module.flow.state_dict()}  # what a fit leaves in the module
    if best is not None:  # averaged ones last, so that the module keeps them for the picture
        weights = {kind: best.weights[kind] for kind in ("raw", "ema") if kind in best.weights}
    test, examples = {}, 0
    for kind, state in weights.items():
        module.flow.load_state_dict(state)
        module.test_name = "test_raw" if kind == "raw" and averaged else "test"
        try:
            figures = trainer.test(module, data, verbose=False)
        except SIGTERMException:
            _leave(cfg, trainer)
        except SystemExit:  # Ctrl-C
            sys.exit(130)
        if figures:
            test[kind] = figures[0][f"{module.test_name}/{module.unit}"]
            examples = int(figures[0][f"{module.test_name}/examples"])
    results = summary(cfg, trainer, module, data, folder, test, examples, best)
    if trainer.is_global_zero:
        write_results(results, folder)
        pictures = callback_of(trainer, Pictures)
        if pictures is not None:
            module.to(trainer.strategy.root_device).eval()
            drawn = pictures.draw_final(trainer, module)
            results["picture"] = drawn and inside(drawn, folder)
            write_results(results, folder)
        for logger in trainer.loggers:
            logger.finalize("success")
        say_results(results, folder)
    return results


def _best(trainer: L.Trainer) -> SavedModel | None:
    """The best checkpoint by validation if it is whole, else the last one, else None; on all devices the same."""
    found = None
    best = getattr(callback_of(trainer, BestCheckpoint), "best_model_path", "")
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
