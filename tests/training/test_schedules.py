"""The learning rate over the steps of a run: our schedule, and torch's own."""

import math
from functools import partial
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from glow.errors import UsageError
from glow.training import MaximumLikelihood, warmup
from glow.training.schedules import DECAYS, factor, time_used

from .small import REALNVP, fit, points

PARAMETERS = [nn.Parameter(torch.zeros(1))]


class TestSchedule:
    def test_warm_up_is_linear_per_step(self) -> None:
        at = factor(9, DECAYS["none"])
        assert [at(s) for s in (0, 4, 9, 10, 10_000)] == pytest.approx([0.1, 0.5, 1, 1, 1])

    def test_no_warm_up(self) -> None:
        assert factor(0, DECAYS["none"])(0) == 1

    def test_linear_ends_at_zero(self) -> None:
        at = factor(0, DECAYS["linear"], 100)
        assert [at(s) for s in (0, 25, 100, 200)] == pytest.approx([1, 0.75, 0, 0])

    def test_a_decay_ends_with_the_steps_or_the_time_whichever_is_first(self) -> None:
        used = 0.0
        at = factor(0, DECAYS["linear"], 100, lambda: used)
        assert at(10) == pytest.approx(0.9)
        used = 0.5
        assert at(10) == pytest.approx(0.5)
        assert at(70) == pytest.approx(0.3)
        used = 1.0
        assert at(10) == 0

    def test_a_time_limit_is_an_end_and_without_a_decay_nobody_looks_at_it(self) -> None:
        optimizer = torch.optim.Adam(PARAMETERS, lr=1.0)
        warmup(
            optimizer,
            warmup_epochs=0,
            decay="cosine",
            steps_per_epoch=10,
            total_steps=math.inf,
            time_used=lambda: 0.5,
        )
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5)

        def unwanted() -> float:
            raise AssertionError

        warmup(optimizer, warmup_epochs=0, steps_per_epoch=10, total_steps=math.inf, time_used=unwanted)

    def test_cosine_ends_at_zero(self) -> None:
        at = factor(10, DECAYS["cosine"], 110)
        assert [at(s) for s in (10, 60, 110, 200)] == pytest.approx([1, 0.5, 0, 0])

    @pytest.mark.parametrize(
        ("config", "total", "message"),
        [
            ({"decay": "cosin"}, 10, "schedule.decay='cosin' is not one of none, cosine"),
            ({"decay": "cosine"}, math.inf, "schedule.decay=cosine needs an end"),
            ({"warmup_epochs": -1}, 10, "schedule.warmup_epochs must be a number of at least zero"),
        ],
    )
    def test_bad_ones(self, config: dict[str, Any], total: float, message: str) -> None:
        optimizer = torch.optim.Adam(PARAMETERS)
        with pytest.raises(UsageError, match=message):
            warmup(optimizer, **config, steps_per_epoch=10, total_steps=total)


class Rates(L.Callback):
    """The learning rate that every step was made with."""

    def __init__(self) -> None:
        self.used: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        self.used.append(trainer.optimizers[0].param_groups[0]["lr"])


def rates(schedule: Any, **options: Any) -> list[float]:
    """Of 26 steps in two epochs, the peak being 1e-3."""
    module = MaximumLikelihood(None, partial(torch.optim.Adam, lr=1e-3), schedule, model=REALNVP)
    fit(module, found := Rates(), data=points(), **{"max_epochs": 2, **options})
    return found.used


class TestInTraining:
    """``configure_optimizers`` gives a schedule what its signature names."""

    def test_none_is_constant(self) -> None:
        assert set(rates(None)) == {1e-3}

    def test_ours(self) -> None:
        used = rates(partial(warmup, warmup_epochs=0.5, decay="linear"))
        assert len(used) == 26
        assert used[:3] == pytest.approx(
            [1e-3 / 7, 2e-3 / 7, 3e-3 / 7]
        )  # round(0.5 * 13) = 6 steps of warm-up
        assert used[-1] == pytest.approx(1e-3 / 20)

    def test_torchs_one_cycle_as_it_is(self) -> None:
        """It names total_steps and steps_per_epoch, and refuses a number of steps that is not an integer."""
        used = rates(partial(lr_scheduler.OneCycleLR, max_lr=1e-2))
        assert max(used) == pytest.approx(1e-2, rel=1e-3)
        assert used[0] == pytest.approx(1e-2 / 25)
        assert used[-1] < 1e-5

    def test_what_the_user_gave_is_left_alone(self) -> None:
        used = rates(partial(lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=260))
        assert used[-1] > used[0]
        assert used == sorted(used)

    def test_torchs_cosine_which_names_none_of_them(self) -> None:
        used = rates(partial(lr_scheduler.CosineAnnealingLR, T_max=26))
        assert used[13] == pytest.approx(0.5e-3)

    def test_a_plateau_advances_after_validations(self) -> None:
        plateau = partial(
            lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1e9, factor=0.5
        )  # nothing is better
        used = rates(plateau, max_epochs=6, check_val_every_n_epoch=2)
        assert [used[13 * epoch] for epoch in range(6)] == pytest.approx(
            [1e-3] * 2 + [0.5e-3] * 2 + [0.25e-3] * 2
        )

    def test_without_an_end(self) -> None:
        with pytest.raises(UsageError, match="schedule.decay=cosine needs an end"):
            rates(partial(warmup, decay="cosine"), max_epochs=-1)

    def test_a_time_limit(self) -> None:
        trainer = L.Trainer(max_time="00:00:01:40", logger=False, accelerator="cpu")
        used = time_used(trainer)
        assert used is not None
        assert used() == 0
        assert time_used(L.Trainer(logger=False, accelerator="cpu")) is None


def test_training_needs_an_optimizer() -> None:
    with pytest.raises(UsageError, match="MaximumLikelihood needs an optimizer for training"):
        fit(MaximumLikelihood(model=REALNVP), data=points())
