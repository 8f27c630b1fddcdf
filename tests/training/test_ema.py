"""The average of the weights, and what it leaves alone."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor

from glow.errors import UsageError
from glow.training import EMA, DensityModule, warmup

from .small import fit, of_digits, of_energy, of_points


def test_the_decay_warms_up() -> None:
    """After n updates with weight n the average follows the recursion with d = min(d, (1+n)/(10+n))."""
    ema, averaged = EMA(decay=0.9), [torch.zeros(1)]
    expected = 0.0
    for n in range(200):
        ema._latest_update_step = n
        ema._average(averaged, [torch.full((1,), float(n))], n)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert averaged[0].item() == pytest.approx(expected, rel=1e-5)


def test_bad_decay() -> None:
    with pytest.raises(UsageError, match=r"callbacks.ema.decay must be in \[0, 1\), got 1"):
        EMA(decay=1)


def test_buffers_are_copied_and_never_averaged() -> None:
    ema = EMA()
    module = of_digits(changed={"permutation": "shuffle"})
    before = {name: b.clone() for name, b in module.named_buffers()}
    fit(module, ema, max_steps=2)
    average = dict(ema._average_model.module.named_buffers())  # type: ignore[union-attr]
    assert any(not b.is_floating_point() for b in before.values()), "a permutation"
    assert average.keys() == before.keys()
    for name, buffer in module.named_buffers():
        assert torch.equal(average[name], buffer)
        assert torch.equal(before[name], buffer)


def test_the_averaged_weights_are_in_place_inside_and_the_raw_ones_outside() -> None:
    ema, module = EMA(), of_digits()

    def first() -> Tensor:
        return next(module.parameters()).detach().clone()

    class Look(EMA):
        def on_train_batch_end(self, trainer, pl_module, *args) -> None:  # type: ignore[no-untyped-def]
            super().on_train_batch_end(trainer, pl_module, *args)
            raw = first()
            average = next(self._average_model.module.parameters()).clone()  # type: ignore[union-attr]
            with self.averaged(pl_module):
                assert torch.equal(first(), average)
                with self.averaged(pl_module):
                    assert torch.equal(first(), average)
            assert torch.equal(first(), raw)

    ema = Look()
    fit(module, ema, max_steps=3)


@pytest.mark.parametrize("make", [of_digits, of_points, of_energy])
def test_modules_are_copied_and_pickled(make: type[DensityModule]) -> None:
    """Before and after training, with an optimizer and a schedule; the copies have the same weights and none in common."""
    module = make()
    module.schedule = partial(warmup, decay="cosine")
    fit(module, max_steps=2)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for (name, a), (_, b) in zip(module.named_parameters(), other.named_parameters(), strict=True):
            assert torch.equal(a, b), name
            assert a.data_ptr() != b.data_ptr()
        assert other.flow.initialized
        assert (other.unit, other.seed) == (module.unit, module.seed)
        fit(other, max_steps=1)
