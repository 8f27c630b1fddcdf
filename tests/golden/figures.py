"""Flows of vectors at seed 0, their densities, and the paper's configuration, as they have always been.

The adapters come first: all that depends on the project's names.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from glow.commands.main import compose
from glow.flows import build

# ---- Adapters: names of the project -------------------------------------------------------------------------------

ARGUMENTS: dict[str, dict[str, str]] = {"*": {"shape": "event_shape", "fast": "direction"}}
"""Family -> an argument's name here -> its name in the project, where they differ; "*" is every family."""

VALUES: dict[tuple[str, str], str] = {("permutation", "plain"): "full"}
"""(Argument's name here, value here) -> the project's value, where they differ: ``("permutation", "plain"): "full"``."""

CLASSES = {
    "glow": "Glow", "nice": "NICE", "realnvp": "RealNVP", "nsf": "NSF", "maf": "MAF", "iaf": "IAF", "planar": "PlanarFlow",
    "radial": "RadialFlow", "made": "MADEDensity", "vae": "VAE",
}  # fmt: skip


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


def initialize(model: Any, x: Tensor) -> None:
    """Data-dependent initialization, without effect where there is none."""
    model.initialize(x)


def log_prob(model: Any, x: Tensor) -> Tensor:
    """(B,), nats."""
    return model.log_prob(x)


def encode(model: Any, x: Tensor) -> list[Tensor]:
    """The latents, one tensor (B, ...) per scale, finest first."""
    return model.encode(x)


def generate(model: Any, latents: list[Tensor]) -> Tensor:
    """Real values from latents, before images are rounded."""
    return model.generate(latents)


def sample(model: Any, n: int, temperature: float, generator: torch.Generator) -> Tensor:
    """Samples as ``sample.py`` draws them, labels included."""
    return model.sample(n, temperature=temperature, generator=generator)


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
    return flat


# ---- From here on nothing depends on the project's names ----------------------------------------------------------

VECTOR, PLANE = (5,), (2,)
MLP = {"layers": 3, "hidden": 8}
BASES = ("normal", "uniform", "mixture", "student_t")

Spec = tuple[str, tuple[int, ...], dict[str, Any]]


def _models() -> dict[str, Spec]:
    found: dict[str, Spec] = {
        "nsf autoregressive": ("nsf", VECTOR, {**MLP, "bins": 4, "autoregressive": True}),
        "planar sampling": ("planar", VECTOR, {"layers": 3, "fast": "sampling"}),
        "radial sampling": ("radial", VECTOR, {"layers": 3, "fast": "sampling"}),
        "realnvp plane mixture": ("realnvp", PLANE, {**MLP, "base": "mixture"}),
        "made": ("made", VECTOR, {"hidden": 8}),
        "made masks": ("made", VECTOR, {"hidden": 8, "connectivity_agnostic": True, "masks": 3}),
    }
    for base in BASES:
        for family in ("realnvp", "nice", "maf", "iaf"):
            found[f"{family} {base}"] = (family, VECTOR, {**MLP, "base": base})
        found[f"nsf {base}"] = ("nsf", VECTOR, {**MLP, "bins": 4, "base": base})
        for family in ("planar", "radial"):
            found[f"{family} {base}"] = (family, VECTOR, {"layers": 3, "base": base})
    return found


MODELS = _models()


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


def examples(name: str, n: int, seed: int) -> Tensor:
    """Data of a model."""
    return random(n, *MODELS[name][1], seed=seed, normal=True) * 1.5 + 0.3


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
    initialize(model, examples(name, 32, seed=1))
    return model.eval()


@torch.no_grad()
def densities(name: str) -> dict[str, list[Any]]:
    """Densities, latents and data from latents in float64, and samples, which are drawn in float32."""
    model = perturbed(name)
    x = examples(name, 4, seed=3)
    figures: dict[str, list[Any]] = {"log_prob": log_prob(model, x).tolist()}
    if MODELS[name][0] == "made":  # in training the masks take turns
        model.train()
        figures["turns"] = [log_prob(model, x).tolist() for _ in range(2)]
        model.eval()
    else:
        latents = encode(model, x)
        figures["latents"] = [brief(z) for z in latents]
        # Towards the middle of where bases have mass: the unit cube's too.
        figures["generate"] = brief(generate(model, [0.5 * z + 0.2 for z in latents]))
    for temperature in (0.7, 1.0):
        drawn = sample(model, 4, temperature, torch.Generator().manual_seed(5))
        figures[f"sample {temperature}"] = [*brief(drawn), float(drawn.double().square().sum())]
    return figures


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
