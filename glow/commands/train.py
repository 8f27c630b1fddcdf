"""``python train.py``: train a flow, test it and leave everything in one folder."""

import signal
import sys
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from glow.commands.allocator import keep_freed_memory
from glow.commands.build import lightning_errors, make, make_each, make_model
from glow.commands.quiet import quiet_lightning
from glow.commands.report import (
    draw_final,
    print_report,
    print_start,
    print_stop,
    run_summary,
    warn_of_slow_precision,
)
from glow.commands.testing import test_weights
from glow.resilience import StopOnSignal
from glow.resilience.lightning_internals import find_callback
from glow.resilience.run_folder import RunFolder
from glow.resilience.storage import disk_full_errors


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
    quiet_lightning()
    run = RunFolder(cfg)
    if run.finished:
        print(f"{run.path} is finished; raise its fit.max_* to go on, or start over with resume=false")
        return print_report(run.results(), run.path)

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.backends.cudnn.allow_tf32 = False  # float32 means IEEE; bf16-mixed is the faster choice
    keep_freed_memory()
    values: Any = OmegaConf.to_container(cfg)
    data = make("dataset", cfg.dataset, seed=cfg.seed)
    flow = make_model(cfg.model)
    if cfg.compile:
        flow.compile()
    objective = make("objective", cfg.objective)
    optimizer, schedule = make("optimizer", cfg.optimizer), None
    if cfg.schedule is not None and "_target_" in cfg.schedule:
        schedule = make("schedule", cfg.schedule)
    module = objective(
        flow, optimizer, schedule, model=values["model"], dataset=values["dataset"], seed=cfg.seed
    )
    trainer = make_trainer(cfg)
    warn_of_slow_precision(trainer)

    with run.lock(trainer), disk_full_errors(run.path), lightning_errors():
        checkpoint = run.checkpoint(trainer)
        print_start(cfg, module, trainer, run.path, checkpoint)
        try:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
            stop_if_signalled(trainer)
            test = test_weights(trainer, module, data)
        except SIGTERMException:
            leave(cfg, trainer)
        except SystemExit as error:  # Lightning's answer to Ctrl-C, or ours to a signal
            sys.exit(130 if error.code == 1 else error.code)
        results = run_summary(cfg, trainer, module, data, run.path, test)
        if trainer.is_global_zero:
            run.write(results)
            results["picture"] = draw_final(trainer, module, run.path)
            run.write(results)
            print_report(results, run.path)
        return results


def make_trainer(cfg: DictConfig) -> L.Trainer:
    """The trainer with its callbacks, loggers and plugins, each chosen in ``conf``."""
    survival = cfg.resilience or {}
    callbacks = [
        *make_each("callbacks", cfg.callbacks),
        *make_each("resilience.callbacks", survival.get("callbacks")),
    ]
    loggers = make_each("logger", cfg.logger)
    if not cfg.trainer.enable_progress_bar:
        callbacks = [c for c in callbacks if not isinstance(c, ProgressBar)]
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, LearningRateMonitor)]
    return make(
        "trainer",
        cfg.trainer,
        callbacks=callbacks,
        logger=loggers or False,
        plugins=make_each("resilience.plugins", survival.get("plugins")),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        default_root_dir=cfg.run_dir,
        use_distributed_sampler=False,  # our samplers count every example once
    )


def stop_if_signalled(trainer: L.Trainer) -> None:
    """Stop now for a signal that came during the last validation; all devices together."""
    stop = find_callback(trainer, StopOnSignal)
    if trainer.strategy.reduce_boolean_decision(stop is not None and stop.received is not None, all=False):
        raise SIGTERMException


def leave(cfg: DictConfig, trainer: L.Trainer) -> None:
    """Say how to continue, and exit with 128 and the signal's number."""
    stop = find_callback(trainer, StopOnSignal)
    print_stop(cfg, trainer)
    sys.exit(128 + ((stop and stop.received) or signal.SIGTERM))
