"""Figures that a refactoring must not change: initial weights, densities, losses of training, resolved configurations.

The adapters come first: all that depends on the project's names. Everything below them, and the JSON files, use names of
their own (``MODELS``, ``settings``), which no renaming touches.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from glow.commands.main import CONF, compose
from glow.commands.train import train
from glow.flows import build
from glow.training import DensityModule

# ---- Adapters: names of the project -------------------------------------------------------------------------------

ARGUMENTS: dict[str, dict[str, str]] = {"*": {"shape": "event_shape", "fast": "direction"}}
"""Family -> an argument's name here -> its name in the project, where they differ; "*" is every family."""

VALUES: dict[tuple[str, str], str] = {("permutation", "plain"): "full"}
"""(Argument's name here, value here) -> the project's value, where they differ: ``("permutation", "plain"): "full"``."""

GONE: set[str] = set()
"""Settings (``model.classes``, ``dataset.name``) that the configurations do not have any more: not compared."""

CLASSES = {
    "glow": "Glow", "nice": "NICE", "realnvp": "RealNVP", "nsf": "NSF", "maf": "MAF", "iaf": "IAF", "planar": "PlanarFlow",
    "radial": "RadialFlow", "made": "MADEDensity", "vae": "VAE",
}  # fmt: skip

CHANGED: dict[tuple[str, str], dict[str, Any]] = {}
"""Settings that the refactoring changes on purpose: (dataset, experiment or "none") -> the new values, ``ABSENT`` for one
that goes. "*" stands for every dataset or experiment; the dataset of an experiment on its own is "experiments". Say why."""

ABSENT = "(absent)"

RUNS: dict[str, list[str]] = {
    "digits": [],
    "two_moons": ["dataset=two_moons", "optimizer=adam", "schedule=constant"],
    "reverse_kl": ["experiment=reverse_kl"],
    "vae": ["experiment=vae"],
    "made": ["experiment=made"],
    "realnvp_digits": ["experiment=realnvp_digits"],
    "nice_digits": ["experiment=nice_digits"],
}
"""Name of a run -> its command line."""

EVERY_RUN = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "logger=none"]

STEPPED = DensityModule
"""The class whose ``training_step(self, batch, batch_idx)`` returns the loss."""


def names(family: str) -> dict[str, str]:
    """Name here -> name in the project, of the family's arguments that differ."""
    return {**ARGUMENTS.get("*", {}), **ARGUMENTS.get(family, {})}


def build_model(family: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The model of that family."""
    renamed = names(family)
    given = {
        renamed.get(k, k): VALUES.get((k, v), v) if isinstance(v, str) else v for k, v in arguments.items()
    }
    return build({"_target_": f"glow.flows.{CLASSES[family]}", **given})


def initialize(model: Any, x: Tensor, y: Tensor | None, noise: Tensor | None) -> None:
    """Data-dependent initialization, without effect where there is none."""
    model.initialize(x, y, noise)


def log_prob(model: Any, x: Tensor, y: Tensor | None, noise: Tensor | None) -> Tensor:
    """(B,), nats."""
    return model.log_prob(x, y, noise)


def encode(model: Any, x: Tensor, y: Tensor | None, noise: Tensor | None) -> list[Tensor]:
    """The latents, one tensor (B, ...) per scale, finest first."""
    return model.encode(x, y, noise)


def generate(model: Any, latents: list[Tensor], y: Tensor | None) -> Tensor:
    """Real values from latents, before images are rounded."""
    return model.generate(latents, y)


def sample(model: Any, n: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Samples as ``sample.py`` draws them, labels included."""
    return model.sample(n, temperature=temperature, generator=generator)


def losses(run: str, folder: Path, steps: int = 20) -> list[float]:
    """The losses of the first steps of a run as it is configured: float32, on the CPU. Then it is broken off."""

    class Enough(BaseException):
        pass

    found: list[float] = []
    original = STEPPED.training_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        if len(found) == steps:
            raise Enough
        loss = original(self, batch, batch_idx)
        found.append(float(loss.detach()))
        return loss

    with mock.patch.object(STEPPED, "training_step", training_step):
        try:
            train(compose("train", [*RUNS[run], *EVERY_RUN, f"output_dir={folder}"]))
        except Enough:
            return found
    raise AssertionError(f"the run {run} had only {len(found)} steps")


def settings(overrides: Sequence[str]) -> dict[str, Any]:
    """What a command line of train.py comes to, as a flat table that does not depend on the layout of ``conf``."""
    cfg: Any = OmegaConf.to_container(compose("train", overrides), resolve=True)
    dataset, model, optimizer = cfg["dataset"], cfg["model"], cfg["optimizer"]
    trainer, callbacks = cfg["trainer"], cfg["callbacks"]
    family = {f"glow.flows.{c}": f for f, c in CLASSES.items()}[model["_target_"]]
    ours = {theirs: here for here, theirs in names(family).items()}
    values = {(k, theirs): here for (k, here), theirs in VALUES.items()}
    flat = {f"dataset.{k}": v for k, v in dataset.items() if k != "_target_"}
    flat["dataset.class"] = dataset["_target_"].rpartition(".")[2]
    for key, value in model.items():
        if key != "_target_":
            key = ours.get(key, key)
            flat[f"model.{key}"] = values.get((key, value), value) if isinstance(value, str) else value
    flat |= {
        "family": family,
        "optimizer": optimizer["_target_"].rpartition(".")[2].lower(),
        "lr": optimizer["lr"],
        "betas": optimizer["betas"],
        "eps": optimizer["eps"],
        "weight_decay": optimizer["weight_decay"],
        "warmup_epochs": float(cfg["schedule"]["warmup_epochs"]),
        "decay": cfg["schedule"]["decay"],
        "max_epochs": trainer["max_epochs"],
        "max_steps": trainer["max_steps"],
        "check_val_every_n_epoch": trainer["check_val_every_n_epoch"],
        "gradient_clip_val": trainer["gradient_clip_val"],
        "ema": (callbacks["ema"] or {}).get("decay"),
        "pictures_every_n_epochs": (callbacks["pictures"] or {}).get("every_n_epochs"),
        "best": callbacks["best"] is not None,
        "objective": {"MaximumLikelihood": "forward_kl", "ReverseKL": "reverse_kl"}[
            cfg["objective"]["_target_"].rpartition(".")[2]
        ],
        "shift": cfg["shift"],
    }
    return {k: v for k, v in flat.items() if k not in GONE}


DATASETS = sorted(f.stem for f in (CONF / "dataset").glob("*.yaml"))
EXPERIMENTS = sorted(f.stem for f in (CONF / "experiment").glob("*.yaml"))

# ---- From here on nothing depends on the project's names ----------------------------------------------------------

GREY, COLOUR, TINY, VECTOR, PLANE = (1, 8, 8), (3, 8, 8), (1, 4, 4), (5,), (2,)
GLOW = {"depth": 2, "width": 8}
MLP = {"layers": 3, "hidden": 8}
BASES = ("normal", "uniform", "mixture", "student_t")

Spec = tuple[str, tuple[int, ...], dict[str, Any]]


def _models() -> dict[str, Spec]:
    grey = {"grey_levels": 17}
    found: dict[str, Spec] = {
        "glow": ("glow", GREY, {**GLOW, **grey}),
        "glow min_scale": ("glow", GREY, {**GLOW, **grey, "min_scale": 0.1}),
        "glow colour additive": ("glow", COLOUR, {**GLOW, "grey_levels": 256, "coupling": "additive"}),
        "glow plain": ("glow", GREY, {**GLOW, **grey, "permutation": "plain"}),
        "glow reverse": ("glow", GREY, {**GLOW, **grey, "permutation": "reverse"}),
        "glow shuffle": ("glow", GREY, {**GLOW, **grey, "permutation": "shuffle"}),
        "glow fixed top": ("glow", GREY, {**GLOW, **grey, "learned_top": False}),
        "glow classes": ("glow", GREY, {**GLOW, **grey, "class_conditional": True, "classes": 10}),
        "realnvp images": ("realnvp", GREY, {**grey, "width": 8, "blocks": 1}),
        "realnvp colour": ("realnvp", COLOUR, {"grey_levels": 256, "width": 8, "blocks": 1, "levels": 2}),
        "nice images": ("nice", GREY, {**grey, **MLP}),
        "nice images uniform": ("nice", GREY, {**grey, **MLP, "base": "uniform"}),
        "nsf autoregressive": ("nsf", VECTOR, {**MLP, "bins": 4, "autoregressive": True}),
        "planar sampling": ("planar", VECTOR, {"layers": 3, "fast": "sampling"}),
        "radial sampling": ("radial", VECTOR, {"layers": 3, "fast": "sampling"}),
        "realnvp plane mixture": ("realnvp", PLANE, {**MLP, "base": "mixture"}),
        "made": ("made", VECTOR, {"hidden": 8}),
        "made masks": ("made", VECTOR, {"hidden": 8, "connectivity_agnostic": True, "masks": 3}),
        "made images": (
            "made",
            TINY,
            {"hidden": 16, "hidden_layers": 1, "grey_levels": 2, "order_agnostic": True, "masks": 3},
        ),
    }
    for base in BASES:
        for family in ("realnvp", "nice", "maf", "iaf"):
            found[f"{family} {base}"] = (family, VECTOR, {**MLP, "base": base})
        found[f"nsf {base}"] = ("nsf", VECTOR, {**MLP, "bins": 4, "base": base})
        for family in ("planar", "radial"):
            found[f"{family} {base}"] = (family, VECTOR, {"layers": 3, "base": base})
    for posterior in ("gaussian", "iaf", "planar"):
        sizes = {"layers": 2, "hidden": 8, "latents": 3, "context": 4, "grey_levels": 2}
        found[f"vae {posterior}"] = ("vae", TINY, {**sizes, "posterior": posterior})
    return found


MODELS = _models()
LATENTS = 3  # of the variational autoencoders


def seeded(name: str) -> nn.Module:
    """The model with its weights at seed 0."""
    family, shape, arguments = MODELS[name]
    torch.manual_seed(0)
    return build_model(family, {"shape": shape, **arguments})


def weights(name: str) -> dict[str, list[list[Any]]]:
    """(shape, sum, first three values) of all parameters, and of all floating-point buffers: sorted, without names."""
    model = seeded(name)
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    return {"parameters": _multiset(list(model.parameters())), "buffers": _multiset(buffers)}


def _multiset(tensors: Sequence[Tensor]) -> list[list[Any]]:
    return sorted([list(t.shape), *brief(t)] for t in tensors)


def brief(t: Tensor) -> list[float]:
    """The sum and the first three values."""
    flat = t.detach().double().flatten()
    return [float(flat.sum()), *flat[:3].tolist()]


def random(*shape: int, seed: int, normal: bool = False) -> Tensor:
    """Float64 draws of the CPU."""
    draw = torch.randn if normal else torch.rand
    return draw(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def examples(name: str, n: int, seed: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Data, labels and noise of a model."""
    family, shape, arguments = MODELS[name]
    y = torch.arange(n) * 3 % 10 if arguments.get("class_conditional") else None
    if len(shape) == 1:
        return random(n, *shape, seed=seed, normal=True) * 1.5 + 0.3, None, None
    levels = arguments["grey_levels"]
    x = (random(n, *shape, seed=seed) ** 2 * levels).to(torch.uint8)
    if family == "vae":
        return x, y, random(n, LATENTS, seed=seed + 1, normal=True)
    return x, y, None if family == "made" else random(n, *shape, seed=seed + 1)


def perturbed(name: str) -> nn.Module:
    """The model in float64 with other weights, which are the same on every processor, then initialized from data.

    What is drawn in float32, or computed from it, differs between processors in the last bits. So what was drawn is drawn
    anew in float64, a third as large; what was constant moves, so that no coupling is the identity. How, depends on a
    parameter's values and shape alone, neither on names nor on the order of parameters.
    """
    model = seeded(name).double()
    with torch.no_grad():
        for p in model.parameters():
            if (p == p.flatten()[0]).all():
                p += 0.05 * torch.sin(torch.arange(p.numel(), dtype=p.dtype) + 1).view_as(p)
            else:  # few digits of both figures, which the last bits do not reach
                seed, deviation = int(10 * p.abs().sum()), float(f"{p.std():.2g}")
                p.copy_((random(*p.shape, seed=seed) - 0.5) * deviation)
                if p.dim() in (2, 3) and p.shape[-1] == p.shape[-2]:  # a matrix, perhaps one to invert
                    p += torch.eye(p.shape[-1], dtype=p.dtype)
    initialize(model, *examples(name, 32, seed=1))
    return model.eval()


@torch.no_grad()
def densities(name: str) -> dict[str, list[Any]]:
    """Densities, latents and data from latents in float64, and samples, which are drawn in float32."""
    family, _, _ = MODELS[name]
    model = perturbed(name)
    x, y, noise = examples(name, 4, seed=3)
    figures: dict[str, list[Any]] = {"log_prob": log_prob(model, x, y, noise).tolist()}
    if family == "made":  # in training the masks take turns
        model.train()
        figures["turns"] = [log_prob(model, x, y, noise).tolist() for _ in range(2)]
        model.eval()
    if family not in ("made", "vae"):
        latents = encode(model, x, y, noise)
        figures["latents"] = [brief(z) for z in latents]
        # Towards the middle of where bases have mass: the unit cube's too.
        figures["generate"] = brief(generate(model, [0.5 * z + 0.2 for z in latents], y))
    for temperature in (0.7, 1.0):
        drawn = sample(model, 4, temperature, torch.Generator().manual_seed(5))
        figures[f"sample {temperature}"] = [*brief(drawn), float(drawn.double().square().sum())]
    return figures


def configurations(dataset: str) -> dict[str, dict[str, Any]]:
    """The settings of a dataset without an experiment ("none") and with each."""
    return {
        "none": settings([f"dataset={dataset}"]),
        **{e: settings([f"dataset={dataset}", f"experiment={e}"]) for e in EXPERIMENTS},
    }


def experiments() -> dict[str, dict[str, Any]]:
    """The settings of each experiment on its own dataset."""
    return {e: settings([f"experiment={e}"]) for e in EXPERIMENTS}


def difference(row: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """What ``row`` has otherwise than ``reference``; ``ABSENT`` is what it lacks."""
    keys = sorted({*row, *reference})
    return {k: row.get(k, ABSENT) for k in keys if row.get(k, ABSENT) != reference.get(k, ABSENT)}


def restored(change: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a ``difference``."""
    return {k: v for k, v in {**reference, **change}.items() if v != ABSENT}


def expected_settings(
    row: Mapping[str, Any], reference: Mapping[str, Any], where: tuple[str, str]
) -> dict[str, Any]:
    """A stored row, with what the refactoring changes on purpose."""
    full = restored(row, reference)
    for key, change in CHANGED.items():
        if all(k in ("*", w) for k, w in zip(key, where, strict=True)):
            full = restored(change, full)
    return {k: v for k, v in full.items() if k not in GONE}


def close(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether nested lists of numbers agree, relatively, and absolutely below 1."""
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(close(f, e, tolerance) for f, e in zip(found, expected, strict=True))
        )
    return math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)


def unmatched(found: list[Any], expected: list[Any], tolerance: float) -> list[Any]:
    """Rows of either multiset that have no partner in the other."""
    left, missing = list(found), []
    for row in expected:
        for i, other in enumerate(left):
            if close(other, row, tolerance):
                del left[i]
                break
        else:
            missing.append(row)
    return missing + left
