"""Bits per dimension of whole datasets."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from glow.bijections import ActNorm
from glow.errors import UsageError
from glow.evaluation.bits import bits_per_dim, evaluate_log_probs, evaluation_noise, mean_and_error
from glow.flows import Flow, Glow, RealNVP
from glow.seeds import generator
from glow.training import MaximumLikelihood

MODEL = {"_target_": "glow.flows.Glow", "event_shape": [1, 8, 8], "grey_levels": 17, "depth": 1, "width": 4}


def images(n: int = 20) -> Tensor:
    return torch.randint(17, (n, 1, 8, 8), dtype=torch.uint8)


def tiny(classes: int = 0) -> Flow:
    flow = Glow((1, 8, 8), 17, depth=1, width=4, class_conditional=classes > 0, classes=classes)
    y = torch.arange(64) % classes if classes else None
    flow.initialize(images(64), y)
    with torch.no_grad():  # its last layers are zero at first, and nothing would depend on labels
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return flow


def batches(x: Tensor, *y: Tensor, size: int = 8) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.split(size) for t in (x, *y)), strict=True))


class TestNoise:
    def draw(self, x: Tensor, **options: int) -> Tensor:
        noise = evaluation_noise(tiny(), len(x), **{"split": "test", "seed": 3, "batch": 5, **options})
        assert noise is not None
        return noise

    def test_its_source_is_that_of_earlier_versions(self) -> None:
        """Figures in old logs must stay what a new evaluation finds."""
        x = images()
        source = generator("cpu", "test", 3, 5, 2)
        expected = torch.rand(x.shape, generator=source)
        assert torch.equal(self.draw(x, device_index=2), expected)

    @pytest.mark.parametrize("split", ["val", "test"])
    def test_it_is_that_of_training(self, split: str) -> None:
        module = MaximumLikelihood(model=MODEL, seed=3)
        module._trainer = SimpleNamespace(global_rank=1)  # type: ignore[assignment]
        x = images()
        met: list[Tensor] = []
        module.loss = lambda batch, noise: met.append(noise)  # type: ignore[method-assign, assignment, arg-type, return-value]
        module._evaluation_losses((x,), split, 5)
        (found,) = met
        assert torch.equal(found, self.draw(x, split=split, device_index=1))
        assert torch.equal(found, torch.rand(x.shape, generator=generator("cpu", split, 3, 5, 1)))

    def test_everything_that_it_is_keyed_by_changes_it(self) -> None:
        x = images()
        options = [
            {},
            {"split": "val"},
            {"seed": 4},
            {"batch": 6},
            {"device_index": 1},
            {"draw": 1},
            {"draw": 2},
        ]
        drawn = [self.draw(x, **o) for o in options]
        assert len({tuple(d.flatten().tolist()) for d in drawn}) == len(options)
        assert all(torch.equal(a, self.draw(x, **o)) for a, o in zip(drawn, options, strict=True))

    def test_its_type(self) -> None:
        assert evaluation_noise(tiny().double(), 3, "test", 0, 0).dtype == torch.float64  # type: ignore[union-attr]


class TestLogProbs:
    def test_one_draw_is_what_the_test_of_a_run_computes(self) -> None:
        module = MaximumLikelihood(model=MODEL, seed=3)
        module._trainer = SimpleNamespace(global_rank=0)  # type: ignore[assignment]
        module.flow.initialize(images(64))
        module.eval()
        x = images()
        with torch.no_grad():
            each = [module._evaluation_losses(b, "test", i) for i, b in enumerate(batches(x))]
        found = evaluate_log_probs(module.flow, batches(x), seed=3)
        assert (found.dtype, found.shape, found.requires_grad) == (torch.float64, (20,), False)
        assert torch.equal(bits_per_dim(found.float(), (1, 8, 8)), torch.cat(each))
        assert not torch.equal(found, evaluate_log_probs(module.flow, batches(x), seed=4))
        assert not torch.equal(found, evaluate_log_probs(module.flow, batches(x), seed=3, split="val"))

    def test_iw_of_one_draw_is_the_bound_to_the_last_bit(self) -> None:
        flow, x = tiny(), images()
        plain = evaluate_log_probs(flow, batches(x))
        assert torch.equal(plain, evaluate_log_probs(flow, batches(x), bound="iw"))

    def test_both_bounds_are_what_the_paper_says(self) -> None:
        flow, x = tiny().double().eval(), images(8)
        with torch.no_grad():
            drawn = torch.stack(
                [
                    flow.log_prob(x, noise=evaluation_noise(flow, len(x), "test", 0, 0, draw=k))
                    for k in range(5)
                ]
            )
        mean = evaluate_log_probs(flow, [(x,)], draws=5)
        tight = evaluate_log_probs(flow, [(x,)], draws=5, bound="iw")
        torch.testing.assert_close(mean, drawn.mean(0))
        highest = drawn.amax(0)
        torch.testing.assert_close(tight, highest + ((drawn - highest).exp().mean(0)).log())

    def test_the_iw_bound_is_the_higher_one(self) -> None:
        """Jensen's inequality, for every image; strictly so, as the draws differ."""
        flow, x = tiny(), images()
        mean = evaluate_log_probs(flow, batches(x), draws=4)
        tight = evaluate_log_probs(flow, batches(x), draws=4, bound="iw")
        assert (tight > mean).all()
        assert (tight < mean + 100).all()

    def test_labels_are_used_by_conditional_flows(self) -> None:
        flow, x, y = tiny(classes=3), images(), torch.arange(20) % 3
        right = evaluate_log_probs(flow, batches(x, y))
        wrong = evaluate_log_probs(flow, batches(x, (y + 1) % 3))
        assert (right != wrong).all()
        without = evaluate_log_probs(flow, batches(x))
        assert torch.equal(without, evaluate_log_probs(flow, batches(x, torch.full_like(y, -1))))

    def test_labels_are_left_out_by_others(self) -> None:
        flow, x = tiny(), images()
        labelled = evaluate_log_probs(flow, batches(x, torch.arange(20)))
        assert torch.equal(labelled, evaluate_log_probs(flow, batches(x)))

    def test_vectors_have_no_noise(self) -> None:
        flow, x = RealNVP((2,)).double(), torch.randn(10, 2)
        found = evaluate_log_probs(flow, batches(x))
        with torch.no_grad():
            assert torch.equal(found, torch.cat([flow.eval()(b.double()) for b in x.split(8)]))
        with pytest.raises(UsageError, match="draws must be 1 for this model.* got 2"):
            evaluate_log_probs(flow, batches(x), draws=2)

    @pytest.mark.parametrize("fails", [False, True])
    def test_the_modes_are_as_before(self, fails: bool) -> None:
        """Also of a module that differs from the rest, and when something goes wrong."""
        flow = tiny().train()
        frozen = next(m for m in flow.modules() if isinstance(m, ActNorm))
        frozen.eval()
        before = [m.training for m in flow.modules()]
        during: list[bool] = []
        log_prob = flow.log_prob

        def spy(*args: Tensor) -> Tensor:
            during.extend(m.training for m in flow.modules())
            return log_prob(*args)

        flow.log_prob = spy  # type: ignore[method-assign, assignment]
        wrong = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        if fails:
            with pytest.raises(UsageError, match="x must have shape"):
                evaluate_log_probs(flow, [(wrong,)])
        else:
            evaluate_log_probs(flow, [(images(2),)])
        assert during
        assert not any(during)
        assert [m.training for m in flow.modules()] == before

    def test_progress_is_told(self) -> None:
        counts: list[int] = []
        evaluate_log_probs(tiny(), batches(images()), draws=2, progress=counts.append)
        assert counts == [8, 16, 20]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"draws": 0}, "draws must be an integer above zero"),
            ({"draws": 1.5}, "draws must be an integer above zero"),
            ({"bound": "elbo"}, "bound='elbo' is not one of mean, iw"),
        ],
    )
    def test_wrong_settings_are_named(self, options: dict, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            evaluate_log_probs(tiny(), batches(images()), **options)

    def test_no_data_is_told(self) -> None:
        with pytest.raises(UsageError, match="no batches"):
            evaluate_log_probs(tiny(), [])


class TestSummary:
    def test_against_numpy(self) -> None:
        values = torch.randn(50) + 3
        found, array = mean_and_error(values), values.double().numpy()
        assert found["mean"] == found["finite_mean"] == pytest.approx(array.mean(), rel=1e-12)
        assert found["standard_error"] == pytest.approx(np.std(array, ddof=1) / math.sqrt(50), rel=1e-12)
        assert (found["n"], found["non_finite"], found["non_finite_at"]) == (50, 0, [])

    def test_one_value_has_no_error(self) -> None:
        found = mean_and_error(torch.tensor([2.0]))
        assert (found["mean"], found["standard_error"]) == (2.0, None)

    def test_what_is_not_finite_is_named_and_spoils_the_mean(self) -> None:
        values = torch.tensor([1.0, float("nan"), 3.0, float("inf"), -float("inf"), 8.0])
        found = mean_and_error(values)
        assert (found["mean"], found["standard_error"], found["finite_mean"]) == (None, None, 4.0)
        assert (found["n"], found["non_finite"], found["non_finite_at"]) == (6, 3, [1, 3, 4])
        assert json.loads(json.dumps(found, allow_nan=False)) == found

    def test_only_the_first_are_listed(self) -> None:
        found = mean_and_error(torch.full((30,), float("nan")))
        assert (found["non_finite"], found["non_finite_at"]) == (30, list(range(20)))
        assert found["finite_mean"] is None

    @pytest.mark.parametrize("shape", [(0,), (2, 3), ()])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(UsageError, match=r"values must have shape \(N,\)"):
            mean_and_error(torch.zeros(shape))
