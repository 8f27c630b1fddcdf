"""The order of the callbacks does not matter."""

from itertools import permutations
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from glow.bijections import ActNorm
from glow.errors import UsageError
from glow.resilience import BestCheckpoint, LastCheckpoint, NonFiniteGuard, StopOnSignal
from glow.training import EMA, Initialize, Pictures, SmallestScale, Throughput, TimeEstimate

from .small import fit, of_digits


def states(folder: Path, kinds: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Weights, raw and averaged, and figures after two epochs of two steps."""
    every: dict[str, L.Callback] = {
        "initialize": Initialize(), "ema": EMA(0.9), "pictures": Pictures(str(folder), n=4), "scale": SmallestScale(),
        "guard": NonFiniteGuard(), "stop": StopOnSignal(), "throughput": Throughput(), "estimate": TimeEstimate(),
        "best": BestCheckpoint(str(folder)), "last": LastCheckpoint(str(folder)),
    }  # fmt: skip
    module = of_digits(changed={"depth": 1, "width": 4, "permutation": "shuffle"})
    trainer = fit(
        module, *(every[k] for k in kinds), initialize=False, max_epochs=2, limit_train_batches=2, enable_checkpointing=True
    )  # fmt: skip
    found: dict[str, torch.Tensor] = {}
    for name in ("best", "last"):
        saved = torch.load(folder / f"{name}.ckpt", weights_only=True)
        for state in ("state_dict", "current_model_state"):
            found |= {
                f"{name} {state} {k}": v for k, v in saved[state].items() if isinstance(v, torch.Tensor)
            }
    for name in ("val/bpd", "train/bpd", "val/smallest_scale"):
        found[name] = trainer.callback_metrics[name]
    for picture in sorted(folder.glob("*.png")):
        found[picture.name] = torch.frombuffer(bytearray(picture.read_bytes()), dtype=torch.uint8)
    return found


KINDS = ("initialize", "ema", "pictures", "scale", "guard", "stop", "throughput", "estimate", "best", "last")


def test_any_order_gives_the_same_weights_figures_and_pictures(tmp_path: Path) -> None:
    reference = states(tmp_path / "reference", KINDS)
    assert len([k for k in reference if k.endswith(".png")]) == 2
    orders = [KINDS[::-1], *((*p, *KINDS[4:]) for p in permutations(KINDS[:4]) if p != KINDS[:4])]
    for i, order in enumerate(orders[::4]):
        found = states(tmp_path / str(i), order)
        assert found.keys() == reference.keys()
        different = [k for k in found if not torch.equal(found[k], reference[k])]
        assert not different, order


def test_an_average_of_an_uninitialized_flow_is_refused() -> None:
    with pytest.raises(UsageError, match="must be initialized before its weights are averaged"):
        fit(of_digits(), EMA(), initialize=False)


def test_the_average_is_made_of_the_initialized_flow() -> None:
    ema = EMA()
    fit(of_digits(), ema, Initialize(), initialize=False, max_steps=1)
    average: Any = ema._average_model.module.flow  # type: ignore[union-attr]
    assert average.initialized
    assert all((m.logs != 0).any() for m in average.modules() if isinstance(m, ActNorm))
