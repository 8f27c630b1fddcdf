"""``python train.py``: train a flow, test it and leave everything in one folder."""

import signal
import sys
from typing import Any, NoReturn

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import DictConfig, OmegaConf

from glow.commands.allocator import keep_freed_memory
from glow.commands.build import lightning_errors, make, make_model, make_trainer
from glow.commands.compiling import compile_steps
from glow.commands.quiet import quiet_lightning
from glow.commands.report import (
    check_precision,
    draw_final,
    print_report,
    print_start,
    print_stop,
    run_summary,
)
from glow.commands.testing import test_weights
from glow.errors import UsageError
from glow.resilience import StopOnSignal
from glow.resilience.lightning_internals import find_callback
from glow.resilience.run_folder import RunFolder
from glow.resilience.storage import disk_full_errors


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured, or continue a run that was stopped; returns what ``results.json`` holds.

    Args:
        cfg: the composed ``conf/train.yaml``.

    Raises:
        UsageError: a setting that cannot work.
        NonFiniteError: training diverged.
        SystemExit: once the state is saved, 128 and the signal's number, as 143 after SIGTERM or 130 after Ctrl-C.
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
    check_observed(flow, data)
    graphs = compile_steps(flow, cfg.compile)
    objective = make("objective", cfg.objective)
    optimizer, schedule = make("optimizer", cfg.optimizer), None
    if cfg.schedule is not None and "_target_" in cfg.schedule:  # schedule=none is a group without settings
        schedule = make("schedule", cfg.schedule)
    module = objective(
        flow, optimizer, schedule, model=values["model"], dataset=values["dataset"], seed=cfg.seed
    )
    module.graphs = graphs
    trainer = make_trainer(cfg)
    check_precision(trainer)

    with run.lock(trainer), disk_full_errors(run.path):
        checkpoint = run.checkpoint(trainer)
        print_start(cfg, module, trainer, run.path, checkpoint)
        if checkpoint is not None:
            flow.initialized = True  # by what the checkpoint holds
        try:
            with lightning_errors(checkpoint):
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


def check_observed(flow: Any, data: Any) -> None:
    """Refuse a model that does not take the observations of the data: it would learn the prior, and nobody would notice."""
    context = getattr(data, "context", None)  # data of one's own need not say it
    if context is not None and flow.observed != context:
        raise UsageError(
            f"this data comes with observations of dataset.context={context} numbers, and the model takes {flow.observed}: "
            "choose model=nsf_posterior"
        )


def stop_if_signalled(trainer: L.Trainer) -> None:
    """Stop now for a signal that came during the last validation; all devices together."""
    stop = find_callback(trainer, StopOnSignal)
    if trainer.strategy.reduce_boolean_decision(stop is not None and stop.received is not None, all=False):
        raise SIGTERMException


def leave(cfg: DictConfig, trainer: L.Trainer) -> NoReturn:
    """Say how to continue, and exit with 128 and the signal's number."""
    stop = find_callback(trainer, StopOnSignal)
    print_stop(cfg, trainer)
    sys.exit(128 + ((stop and stop.received) or signal.SIGTERM))
