"""What is found wrong with a diagnosed flow."""

import json
import math
from typing import Any

import pytest
import torch

from glow.evaluation.diagnostics import diagnose
from glow.evaluation.diagnostics_picture import diagnostics_picture
from glow.evaluation.findings import THRESHOLDS, findings

from .diagnosed import change, identity, normal, pictures, small_glow, two_scales

pytestmark = pytest.mark.usefixtures("one_thread")


def test_nothing_is_found_wrong_with_an_exact_flow() -> None:
    assert findings(diagnose(identity(), normal(500, 6))) == []
    assert findings(diagnose(two_scales(), normal(100, 1, 8, 8))) == []


@pytest.mark.parametrize("n", [1, 2, 5, 20, 100])
def test_few_examples_of_an_exact_flow_are_no_reason_for_findings(n: int) -> None:
    flow = identity(2)
    for seed in range(40):
        assert findings(diagnose(flow, normal(n, 2, seed=seed))) == []


@pytest.mark.parametrize("scale", [0, 1])
@pytest.mark.parametrize(("factor", "word"), [(1.5, "narrow"), (1 / 1.5, "wide")])
def test_a_scale_that_is_off_is_named(scale: int, factor: float, word: str) -> None:
    log_sd = [0.0, 0.0]
    log_sd[scale] = math.log(factor)
    (line,) = findings(diagnose(two_scales((log_sd[0], log_sd[1])), normal(300, 1, 8, 8)))
    begin, number = line.split(":")[0].rsplit(" ", 1)
    assert begin == f"the latents of scale {scale + 1} of 2 are too {word} by a factor of"
    assert float(number) == pytest.approx(1.5, abs=0.03)
    assert "fit.max_steps" in line


def test_flows_are_told_their_own_settings() -> None:
    report = diagnose(identity(), normal(2000, 6) + 1)
    (line,) = findings(report)
    assert "scale 1 of 1 are too high by 0.99" in line
    assert "model.layers or model.hidden" in line
    (line,) = findings({**report, "unit": "bits/dim"})
    assert "model.depth or model.width" in line


@pytest.mark.parametrize("unit", ["bits/dim", "nats"])
def test_a_flow_that_overfits_is_never_told_to_train_longer(unit: str) -> None:
    report = {**diagnose(identity(), 1.5 * normal(2000, 6) + 1), "unit": unit}
    held_out = report["bits"]["total"]
    length = "fit.max_epochs" if unit == "bits/dim" else "fit.max_steps"
    first, *others = findings(report, held_out - 1)
    assert (
        f"the mean {unit} is {held_out - 1:.4f} on training examples and {held_out:.4f} on held-out" in first
    )
    assert len(others) == 2
    for line in (first, *others):
        assert f"lower {length}" in line
        assert "optimizer=adamw" in line
        assert "raise" not in line


@pytest.mark.parametrize("better", [0.05, -1.0])
def test_a_flow_that_does_not_overfit_is_told_so(better: float) -> None:
    """Held-out data that surprises the flow is no overfitting when training data does so, too."""
    report = diagnose(identity(), 1.5 * normal(2000, 6) + 1)
    high, wide = findings(report, report["bits"]["total"] - better)
    assert "too high" in high
    assert "raise fit.max_steps" in high
    assert wide.endswith("held-out data surprises the flow; lower optimizer.lr")
    _, unknown = findings(report)
    assert "if the training loss is lower, lower fit.max_steps" in unknown


def test_a_difference_that_may_be_chance_is_no_overfitting() -> None:
    report = diagnose(identity(), normal(500, 6))
    error = report["bits"]["standard_error"]
    assert 4 * math.sqrt(2) * error > THRESHOLDS["overfitting"].value
    assert findings(report, report["bits"]["total"] - 5 * error) == []
    assert "overfits" in findings(report, report["bits"]["total"] - 6 * error)[0]


def test_dependent_latents_are_found_by_their_norms() -> None:
    """Six times the same standard normal: nothing is wrong with any single coordinate."""
    (line,) = findings(diagnose(identity(), normal(500, 1).expand(500, 6)))
    assert "have squared norms" in line
    assert "from chi-square's (Kolmogorov-Smirnov distance)" in line


@pytest.mark.parametrize("permutation", ["lu", "full"])
def test_a_convolution_that_is_nearly_singular_is_named(permutation: str) -> None:
    flow = small_glow(permutation=permutation)
    mixing = flow.bijection.levels[1].steps[1].unstack()[1].steps[1]
    if permutation == "full":
        left, values, right = torch.linalg.svd(mixing.matrix.data)
        mixing.matrix.data.copy_(left @ torch.diag(torch.cat((values[:-1], torch.tensor([1e-5])))) @ right)
    else:
        mixing.logs.data[3] -= math.log(1e5)
    lines = findings(diagnose(flow, pictures()))
    (line,) = (line for line in lines if "nearly singular" in line)
    assert "the 1x1 convolution 2 of level 2" in line
    assert "1 of 2 are beyond 1000" in line
    assert "optimizer.lr" in line


def test_a_singular_convolution_is_reported_not_raised() -> None:
    flow = small_glow(permutation="full")
    flow.bijection.levels[1].steps[1].step.steps[1].matrix.data[0] = 0
    report = diagnose(flow, pictures())
    json.dumps(report, allow_nan=False)
    lines = findings(report)
    assert report["conditions"][1][0] is None
    assert report["round_trip"]["largest"][0] is None
    assert any("condition number inf (1 of 2" in line for line in lines)
    assert any("the mean bits/dim is not finite" in line for line in lines)


def test_weights_that_are_not_finite_are_named_and_drawn() -> None:
    flow = small_glow()
    flow.bijection.levels[1].steps[1].step.steps[0].shift.data[1, 0] = torch.nan
    report = diagnose(flow, pictures())
    json.dumps(report, allow_nan=False)
    lines = findings(report)
    assert any("of the latents of scale 2 of 2 are not finite" in line for line in lines)
    assert not any("scale 1 of 2 are not finite" in line for line in lines)
    assert any("inverting from the latents misses the data by up to inf" in line for line in lines)
    assert diagnostics_picture(report).float().std() > 0


@pytest.mark.parametrize(
    ("name", "path", "bad", "words"),
    [
        ("overfitting", "bits.total", 7.0, "4.0000 on training examples and 7.0000 on held-out ones"),
        ("mean", "latents.0.mean", -0.3, "scale 1 of 2 are too low by 0.3:"),
        ("width", "latents.1.sd", 0.5, "scale 2 of 2 are too narrow by a factor of 2"),
        ("skewness", "latents.0.skewness", 0.9, "lopsided, skewness 0.9"),
        ("excess_kurtosis", "latents.0.excess_kurtosis", 3.0, "heavy tails, excess kurtosis 3:"),
        ("ks", "latents.1.ks", 0.1, "not normal, Kolmogorov-Smirnov distance 0.1:"),
        ("norm_spread", "latents.0.squared_norm.sd", 5.0, "have squared norms that spread 4.9"),
        ("norm_ks", "latents.0.squared_norm.ks", 0.4, "have squared norms 0.4 from chi-square's"),
        ("agreement", "bits.log_prob", 0.0, "and should agree: compare with trainer.precision=64-true"),
        ("round_trip", "round_trip.largest.0", 0.1, "misses the data by up to 0.1"),
        ("lost", "round_trip.lost", 0.05, "5.0% of the grey levels do not come back"),
        ("smallest_scale", "scales", (1e-5, 1.0), "couplings scale by as little as 1e-05 (level 1)"),
        ("largest_scale", "scales", (0.5, 1e5), "couplings scale by as much as 1e+05"),
        ("condition", "conditions", [[2.0, 1e6], []], "the 1x1 convolution 2 of level 1 is nearly singular"),
    ],
    ids=lambda v: v if isinstance(v, str) and v in THRESHOLDS else "",
)
def test_every_threshold_has_its_line(name: str, path: str, bad: Any, words: str) -> None:
    healthy = diagnose(two_scales(), normal(300, 1, 8, 8))
    if path == "scales":
        low, high = bad
        bad = {
            "smallest": low,
            "largest": high,
            "levels": [{"smallest": low, "largest": high, "steps": [[low, high]]}],
        }
    assert not findings(healthy)
    change(healthy, path, bad)
    line = findings(healthy, 4.0 if name == "overfitting" else None)[0]
    assert words in line
    assert any(setting in line for setting in ("optimizer.", "model.", "trainer.", "fit."))
    assert THRESHOLDS[name].meaning.endswith(".")


def test_every_threshold_is_tested() -> None:
    (mark,) = test_every_threshold_has_its_line.pytestmark
    assert {row[0] for row in mark.args[1]} == set(THRESHOLDS)
