"""What a checkpoint of a module holds, and how it becomes a module again."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from glow.errors import UsageError
from glow.flows import build
from glow.training import EMA, BothKL, DensityModule, MaximumLikelihood, ReverseKL

from .small import ENERGY, GLOW, QUIET, REALNVP, digits, fit, of_both, of_digits, of_energy, of_points, points


def saved(folder: Path, module: DensityModule, *callbacks: L.Callback) -> Path:
    """The checkpoint of a run of two steps by Lightning's own callback."""
    keep = ModelCheckpoint(str(folder), filename="last")
    fit(module, *callbacks, keep, max_steps=2, limit_val_batches=1, enable_checkpointing=True)
    return folder / "last.ckpt"


DATASET = {"name": "digits", "shape": [1, 8, 8], "root": None}


@pytest.mark.parametrize("average", [False, True], ids=["raw", "ema"])
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (of_digits, {"shift": 0.1, "dataset": DATASET, "seed": 3}),
        (of_points, {}),
        (of_energy, {}),
        (of_both, {"share": 0.2}),
    ],
)
def test_it_holds_tensors_and_plain_values(tmp_path: Path, make: Any, options: Any, average: bool) -> None:
    module = make(**options)
    path = saved(tmp_path, module, *([EMA()] if average else []))
    content = torch.load(path, weights_only=True)
    values = content["hyper_parameters"]
    assert json.loads(json.dumps(values)) == values
    own = {of_energy: set(), of_both: {"share"}}.get(make, {"shift", "label_dropout"})
    assert values.keys() == {"model", "dataset", "seed"} | own
    assert all(values[k] == v for k, v in options.items())


@pytest.mark.parametrize("average", [False, True], ids=["raw", "ema"])
@pytest.mark.parametrize(
    ("make", "cls"),
    [
        (of_digits, MaximumLikelihood),
        (of_points, MaximumLikelihood),
        (of_energy, ReverseKL),
        (of_both, BothKL),
    ],
)
def test_it_is_loaded_without_yaml_optimizer_and_schedule(
    tmp_path: Path, make: Any, cls: type[DensityModule], average: bool
) -> None:
    path = saved(tmp_path, make(), *([EMA()] if average else []))
    module = cls.load_from_checkpoint(path)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert module.flow.initialized
    assert all(torch.equal(p, stored[name]) for name, p in module.named_parameters())
    data = digits() if module.flow.grey_levels else points()
    loss = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    assert loss[f"val/{module.unit}"] > 0


class Mine(L.LightningModule):
    """Records that it was made."""

    made = 0

    def __init__(self, **options: Any) -> None:
        super().__init__()
        Mine.made += 1


HOSTILE = {"_target_": "os.system", "command": "touch hostile"}


@pytest.mark.parametrize(
    ("cls", "changed"),
    [
        (MaximumLikelihood, {"model": HOSTILE}),
        (MaximumLikelihood, {"model": GLOW | {"network": HOSTILE}}),
        (
            MaximumLikelihood,
            {"model": GLOW | {"coupling": {"_target_": "glow.flows.Glow", "inner": [HOSTILE]}}},
        ),
        (MaximumLikelihood, {"model": GLOW | {"_target_": "os.system"}}),
        (MaximumLikelihood, {"model": {"_target_": f"{__name__}.Mine"}}),
        (ReverseKL, {"model": REALNVP, "dataset": HOSTILE}),
        (ReverseKL, {"model": REALNVP | {"base": HOSTILE}, "dataset": ENERGY}),
    ],
)
def test_a_strangers_target_is_refused_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type[DensityModule], changed: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, of_digits())
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"] |= changed
    torch.save(content, path)
    Mine.made = 0
    with pytest.raises(UsageError):
        cls.load_from_checkpoint(path)
    assert not (tmp_path / "hostile").exists()
    assert Mine.made == 0


def test_a_hostile_dataset_of_a_maximum_likelihood_run_is_never_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    MaximumLikelihood.load_from_checkpoint(saved(tmp_path, of_digits(dataset=HOSTILE)))
    assert not (tmp_path / "hostile").exists()


def test_a_flow_of_your_own_is_given(tmp_path: Path) -> None:
    """Its class is in no table: the checkpoint keeps its weights alone."""
    adam = partial(torch.optim.Adam, lr=1e-3)
    path = saved(tmp_path, MaximumLikelihood(build(GLOW), adam))
    assert torch.load(path, weights_only=True)["hyper_parameters"]["model"] is None
    with pytest.raises(UsageError, match="MaximumLikelihood needs a flow"):
        MaximumLikelihood.load_from_checkpoint(path)
    flow = build(GLOW)
    module = MaximumLikelihood.load_from_checkpoint(path, flow=flow)
    assert module.flow is flow
    assert flow.initialized
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(p, stored[f"flow.{name}"]) for name, p in flow.named_parameters())


@pytest.mark.parametrize("share", [-0.1, 1.1, "much"])
def test_a_bad_label_dropout(share: Any) -> None:
    with pytest.raises(UsageError, match="objective.label_dropout must be"):
        of_digits(label_dropout=share)


@pytest.mark.parametrize("share", [-0.1, 1.1, "much"])
def test_a_bad_share_of_the_reverse_kl(share: Any) -> None:
    with pytest.raises(UsageError, match="objective.share must be"):
        of_both(share=share)


@pytest.mark.parametrize("shift", [-0.1, 1, "much"])
def test_a_bad_shift(shift: Any) -> None:
    with pytest.raises(UsageError, match="objective.shift must be"):
        of_digits(shift=shift)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": None}, "needs a density: choose one of the datasets in the plane"),
        ({"dataset": ENERGY | {"kind": "checkerboard"}}, "nowhere zero"),
        ({"dataset": ENERGY | {"kind": "two_moons", "noise": 0}}, "nowhere zero"),
    ],
)
def test_what_reverse_kl_cannot_learn(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        of_energy(**options)
