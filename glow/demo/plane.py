"""The view In the plane: flows of points, as they are or while they learn what the visitor draws."""

import time
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from glow.commands.build import make, make_model
from glow.commands.main import compose
from glow.commands.quiet import quiet_lightning
from glow.data.base import ArrayData, Examples, Split
from glow.demo.ask import Ask, as_png
from glow.demo.jobs import Event
from glow.distributions.base import Distribution
from glow.distributions.plane import RoundMixture
from glow.errors import UsageError
from glow.evaluation.layers import latent_grid, layer_by_layer
from glow.flows.flow import Flow
from glow.seeds import generator
from glow.training import Initialize
from glow.training.module import DensityModule

TOYS = ("two_moons", "eight_gaussians", "pinwheel", "checkerboard", "rings", "two_spirals", "banana")
"""Options of ``conf/dataset`` to begin from."""
FAMILIES = ("realnvp", "nsf", "maf")
"""Options of ``conf/model`` that learn within seconds."""

Box = tuple[float, float, float, float]
"""x from and to, y from and to, as in ``PlaneDensity``."""
BOX: Box = (-4.0, 4.0, -4.0, 4.0)
"""Where visitors draw."""

MOST_POINTS, MOST_SECONDS = 2000, 30
SHOWN = 400
"""Points of a toy, of a run's data, and draws of the base that are followed."""


def toy_points(ask: Ask) -> Event:
    """Points of a toy density, moved and scaled into the middle of the box where visitors draw."""
    cfg = compose("train", [f"dataset={ask.text('toy', TOYS)}", f"dataset.train_size={SHOWN}"])
    cfg.dataset.val_size = 0.1  # some have a count of more than these
    x = make("dataset", cfg.dataset, seed=0).load("train").x
    low, high = x.amin(0), x.amax(0)
    x = (x - (low + high) / 2) * (5 / (high - low).max())
    return {"points": x.tolist()}


def show_plane(ask: Ask) -> Event:
    """The density of a model, points of its data, and how draws of the base and a grid come to be data."""
    flow = check_plane(ask.model, ask.session(kind="points").density)
    session = ask.models.open(ask.model).session

    def make_event() -> Event:
        try:
            data = session.data.x
        except UsageError:  # it is not on this machine
            data = flow.sample(SHOWN, generator=generator("cpu", "samples", 0)).cpu()
        return describe(flow, _square(data), _square, 120) | {"points": data[:SHOWN].tolist()}

    return ask.results.get_or("plane", make_event)


def check_plane(name: str, density: Distribution) -> Flow:
    """Refuse a model that has no density in the plane to show, or one for each observation."""
    if not isinstance(density, Flow) or density.event_shape != (2,) or density.conditional:
        raise UsageError(
            f"{name} is no flow of points in the plane, or one that takes labels or observations"
        )
    return density


def train_on_points(ask: Ask) -> Event:
    """Train a flow on points of the visitor for some seconds as ``python train.py dataset=two_moons model=FAMILY`` would.

    Each point stands for a round Gaussian of standard deviation ``blur``, or the flow would learn to put all its mass on the
    points. Zero seconds give the flow as it is before training.
    """
    centres, blur = _points(ask), ask.number("blur", 0.02, 1, 0.1)
    family, seconds = ask.text("family", FAMILIES), ask.integer("seconds", 0, MOST_SECONDS, 10)
    seed = ask.integer("seed", 0, 2**31, 0)
    limit = "max_steps=0" if seconds == 0 else f"max_time='00:00:00:{seconds:02d}'"
    settings = ["dataset=two_moons", f"model={family}", "fit.max_steps=-1", f"fit.{limit}", f"seed={seed}"]
    settings += ["schedule.warmup_epochs=0.2"]  # a slow machine takes a hundred steps in ten seconds
    fixed = ["enable_progress_bar=false", "accelerator=cpu", "devices=1", "limit_val_batches=0"]
    cfg = compose("train", settings + [f"trainer.{setting}" for setting in fixed])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = make_model(cfg.model)
    optimizer, schedule = make("optimizer", cfg.optimizer), make("schedule", cfg.schedule)
    module = make("objective", cfg.objective)(flow, optimizer, schedule, model={}, seed=seed)
    density = RoundMixture(blur)
    density.centres = centres
    live = Live(ask, density, seconds)
    quiet_lightning()
    trainer = make(
        "trainer", cfg.trainer, callbacks=[Initialize(), live], logger=False, enable_checkpointing=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, Drawn(density, seed))
    return live.event(module, trainer.global_step, 160) | {"left": 0}


class Drawn(ArrayData):
    """Points of a density, as a dataset.

    Args:
        density: of the points.
        seed: decides them.
    """

    def __init__(self, density: RoundMixture, seed: int) -> None:
        super().__init__(name="drawn points", shape=(2,), batch_size=256, seed=seed)
        self.density = density

    def load(self, split: Split) -> Examples:
        rng = np.random.default_rng(self.seed)
        return Examples(torch.from_numpy(self.density.sample(20_000, rng)).float())


class Live(L.Callback):
    """Show the visitor what a flow has learned, for at most a third of the time.

    Args:
        ask: whose visitor it is.
        density: what is learned.
        seconds: that the training may take.
    """

    def __init__(self, ask: Ask, density: RoundMixture, seconds: int) -> None:
        self.ask, self.seconds = ask, seconds
        self.next = self.begun = time.monotonic()
        x = torch.from_numpy(density.sample(1000, np.random.default_rng(1)))
        self.x, self.best = x.float(), -density.log_prob(x).mean().item()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begun = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, DensityModule)
        now = time.monotonic()
        if now < self.next:
            self.ask.check()
            return
        self.ask.send(self.event(pl_module, trainer.global_step, 80))
        self.next = time.monotonic() + max(0.3, 2 * (time.monotonic() - now))

    @torch.no_grad()
    def event(self, module: DensityModule, steps: int, side: int) -> Event:
        """What there is to see."""
        flow = module.flow
        assert isinstance(flow, Flow)
        flow.eval()
        nats = -flow.log_prob(self.x).mean().item()
        if not np.isfinite(nats):
            raise UsageError("the training diverged: another seed or a larger blur may help")
        left = max(0.0, self.seconds - (time.monotonic() - self.begun))
        shown = describe(flow, BOX, lambda x: BOX, side)
        flow.train()
        return shown | {"nats": nats, "best": self.best, "steps": steps, "left": left}


@torch.no_grad()
def describe(flow: Flow, box: Box, around: Callable[[Tensor], Box], side: int) -> Event:
    """What the page draws of a flow.

    Args:
        flow: of points in the plane.
        box: where the density is computed.
        around: gives the box of the points (N, 2) that are followed from the base.
        side: the density is computed at ``side`` x ``side`` points.
    """
    # Slow to import.
    from matplotlib import colormaps

    from glow.evaluation.plane import density_on_grid

    density = density_on_grid(flow, box, side).nan_to_num(0, 0, 0)
    colours = colormaps["viridis"](density.flip(0).div(density.max().clamp(min=1e-30)).numpy(), bytes=True)
    grid = latent_grid(flow, points=51)
    [z] = flow.sample_latents(SHOWN, generator=generator("cpu", "followed points", 0))
    places = layer_by_layer(flow, torch.cat([z.cpu(), grid.view(-1, 2).to(z.cpu())]))
    followed, lines = places[:, :SHOWN], places[:, SHOWN:].unflatten(1, (-1, grid.shape[2]))
    return {
        "box": box, "density": as_png(torch.from_numpy(colours[..., :3]).permute(2, 0, 1)), "peak": density.max().item(),
        "around": around(followed.flatten(0, 1)), "followed": _thousandths(followed), "lines": _thousandths(lines),
        "parts": [part.kind.removeprefix("other: ") for part in flow.bijection.parts()][::-1],
    }  # fmt: skip


def _thousandths(x: Tensor) -> list[Any]:
    """Integers, which make short lines of JSON."""
    return x.nan_to_num(0).clamp(-1e5, 1e5).mul(1000).round().int().tolist()


def _square(x: Tensor) -> Box:
    """A square around all but the outermost of points (N, 2)."""
    low, high = x.nan_to_num(0).float().quantile(torch.tensor([0.002, 0.998]), dim=0)
    half = 0.6 * (high - low).max().clamp(min=1e-3)
    (x0, y0), (x1, y1) = ((low + high) / 2 - half).tolist(), ((low + high) / 2 + half).tolist()
    return x0, x1, y0, y1


def _points(ask: Ask) -> np.ndarray:
    """The visitor's points, float64 (N, 2)."""
    given = ask.settings.get("points")
    if not isinstance(given, list):
        raise UsageError("points must be a list of pairs of numbers")
    if not 1 <= len(given) <= MOST_POINTS:
        raise UsageError(f"points must be 1 to {MOST_POINTS:,}, got {len(given):,}")
    try:
        points = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    inside = (
        points.ndim == 2 and points.shape[1] == 2 and ((BOX[::2] <= points) & (points <= BOX[1::2])).all()
    )
    if not inside:
        raise UsageError(
            "points must be pairs of numbers, x from {:g} to {:g} and y from {:g} to {:g}".format(*BOX)
        )
    return points


HANDLERS = {"toy": toy_points, "plane": show_plane, "learn": train_on_points}
