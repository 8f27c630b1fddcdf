"""What a diagnosis measures, what it finds wrong, and that it leaves the flow alone."""

from __future__ import annotations

import copy
import io
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections import (
    ActNorm,
    AffineCoupling,
    Bijection,
    Composition,
    GlowLevel,
    MultiScale,
    PlainConv1x1,
    SplitPrior,
    Squeeze,
    TopPrior,
)
from glow.errors import UsageError
from glow.evaluation.diagnostics import diagnose
from glow.evaluation.diagnostics_picture import diagnostics_picture
from glow.evaluation.findings import THRESHOLDS, findings
from glow.flow import Flow
from glow.models import glow, maf, realnvp
from glow.networks import ScaledConv2d, ZeroConv2d
from glow.seeds import generator


@pytest.fixture(autouse=True)
def _one_thread(_deterministic: None) -> None:
    """Threads gain nothing on tensors this small, and wait for each other on a busy machine."""
    torch.set_num_threads(1)


def shaken(flow: Flow, dtype: torch.dtype = torch.float64) -> Flow:
    """Weights as after some training: none is zero, none of the convolutions orthogonal."""
    source = torch.Generator().manual_seed(1)
    for p in flow.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=source)
    flow.initialized = True
    return flow.to(dtype)


def small_glow(**options: Any) -> Flow:
    torch.manual_seed(0)
    return glow((1, 8, 8), 17, **{"levels": 2, "depth": 2, "width": 8, **options})


def pictures(n: int = 10) -> Tensor:
    return torch.randint(17, (n, 1, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def normal(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def identity(dim: int = 6) -> Flow:
    return maf((dim,), layers=2, hidden=4).double()  # as it starts


def two_scales(log_sd: tuple[float, float] = (0.0, 0.0)) -> Flow:
    """Standard normal in both scales, but for the priors' log standard deviations."""
    split, top = SplitPrior(ZeroConv2d(2, 4)), TopPrior(8)
    split.network.bias.data[1::2] = log_sd[0]
    assert top.bias is not None
    top.bias.data[8:] = log_sd[1]
    f = MultiScale([Composition([Squeeze()]), Composition([Squeeze()])], [split], top)
    return Flow(f, (1, 8, 8)).double()


def total(report: dict[str, Any]) -> float:
    return math.fsum(v for row in report["bits"]["table"] for v in row.values())


def kind(report: dict[str, Any], name: str) -> list[float]:
    return [row[name] for row in report["bits"]["table"]]


# Bits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_scale": 0.1, "levels": 3},
        {"coupling": "additive", "permutation": "plain"},
        {"permutation": "shuffle", "levels": 1},
        {"permutation": "reverse", "learned_top": False},
        {"class_conditional": True, "classes": 3},
    ],
    ids=str,
)
def test_the_table_of_bits_adds_up_to_the_log_prob_of_images(options: dict[str, Any]) -> None:
    flow, x = shaken(small_glow(**options)), pictures()
    y = torch.arange(10) % 3 if flow.classes else None
    report = diagnose(flow, x, y, seed=5, batch_size=4)
    noise = torch.rand(x.shape, generator=generator("cpu", "diagnose", 5), dtype=torch.float64)
    expected = (-flow.eval().log_prob(x, y, noise) / (64 * math.log(2))).detach()
    assert total(report) == pytest.approx(expected.mean().item(), rel=1e-12)
    assert report["bits"]["total"] == pytest.approx(total(report), rel=1e-12)
    assert report["bits"]["log_prob"] == pytest.approx(expected.mean().item(), rel=1e-12)
    assert report["bits"]["standard_error"] == pytest.approx(expected.std().item() / math.sqrt(10))
    assert report["unit"] == "bits/dim"
    assert len(report["bits"]["table"]) == len(report["latents"]) == options.get("levels", 2)
    assert sum(kind(report, "level correction")) == pytest.approx(math.log2(17))
    assert all((v == 0) == ("coupling" in options) for v in kind(report, "coupling"))
    assert all(
        (v == 0) == (options.get("permutation") in ("shuffle", "reverse")) for v in kind(report, "mixing")
    )
    assert all(v != 0 for v in kind(report, "actnorm") + kind(report, "prior"))


def test_the_table_of_nats_adds_up_to_the_log_prob_of_vectors() -> None:
    flow, x = shaken(realnvp((5,), layers=3, hidden=4)), normal(20, 5)
    report = diagnose(flow, x, batch_size=7)
    assert total(report) == pytest.approx(-flow.eval().log_prob(x).mean().item(), rel=1e-12)
    (normal_density,) = kind(report, "prior")
    (z,) = flow.encode(x)
    assert normal_density == pytest.approx(0.5 * (z**2 + math.log(2 * math.pi)).sum(1).mean().item())
    assert report["unit"] == "nats"
    assert report["round_trip"]["lost"] is None


class Double(Bijection):
    """A bijection that the diagnosis has never heard of."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return 2 * x, x.new_full((len(x),), x[0].numel() * math.log(2))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z / 2, z.new_full((len(z),), -z[0].numel() * math.log(2))


def test_every_kind_of_step_has_its_own_share() -> None:
    actnorm, matrix = ActNorm(4), PlainConv1x1(4)
    actnorm.logs.data[:] = torch.tensor([0.1, 0.2, 0.0, 0.0])
    matrix.matrix.data = torch.diag(torch.tensor([1.0, 2.0, 1.0, 1.0]))
    report = diagnose(
        Flow(Composition([actnorm, Composition([matrix, Double()])]), (4,)).double(), normal(9, 4)
    )
    assert report["round_trip"]["steps"] == [
        "step 1, actnorm",
        "step 2, step 1, mixing",
        "step 2, step 2, other: Double",
    ]
    assert kind(report, "actnorm") == [pytest.approx(-3 * 0.3)]
    assert kind(report, "mixing") == [pytest.approx(-math.log(2))]
    assert kind(report, "other: Double") == [pytest.approx(-4 * math.log(2))]
    assert kind(report, "coupling") == kind(report, "level correction") == [0]


# Latents


def test_latents_are_described_as_their_formulas_say() -> None:
    x = normal(50, 4) * 1.3 + 0.2 * normal(50, 4, seed=4) ** 2
    (latents,) = diagnose(identity(4), x)["latents"]
    centred = x - x.mean()
    variance = centred.pow(2).mean()
    assert latents["mean"] == pytest.approx(x.mean().item())
    assert latents["sd"] == pytest.approx(variance.sqrt().item())
    assert latents["skewness"] == pytest.approx((centred.pow(3).mean() / variance**1.5).item())
    assert latents["excess_kurtosis"] == pytest.approx((centred.pow(4).mean() / variance**2 - 3).item())
    squared = (x * x).sum(1)
    assert latents["squared_norm"]["mean"] == pytest.approx(squared.mean().item() / 4)
    assert latents["squared_norm"]["sd"] == pytest.approx(squared.std().item() / math.sqrt(8))
    levels = torch.arange(1, 100, dtype=torch.float64) / 100
    assert latents["quantiles"] == pytest.approx(x.flatten().quantile(levels).tolist())
    assert latents["squared_norm"]["quantiles"] == pytest.approx(squared.quantile(levels).tolist())
    # Of chi-square with four degrees of freedom, P(r > t) = (1 + t/2) exp(-t/2).
    t = torch.tensor(latents["squared_norm"]["chi_square"], dtype=torch.float64)
    assert ((1 + t / 2) * (-t / 2).exp()).tolist() == pytest.approx((1 - levels).tolist())


def test_kolmogorov_smirnov_distances_are_those_of_a_shift_and_of_one_norm() -> None:
    exact = torch.special.ndtri((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).view(1000, 4)
    (latents,) = diagnose(identity(4), exact + 0.5)["latents"]
    assert latents["ks"] == pytest.approx(math.erf(0.25 / math.sqrt(2)), abs=5e-4)  # 2 Phi(1/4) - 1
    (latents,) = diagnose(identity(4), torch.ones(10, 4, dtype=torch.float64))["latents"]
    below = 1 - 3 * math.exp(-2)  # chi-square(4) at the squared norm of all, 4
    assert latents["squared_norm"]["ks"] == pytest.approx(max(below, 1 - below))


def test_latents_are_those_of_noise_anywhere_in_the_bins_whatever_the_batches() -> None:
    flow, x = shaken(small_glow()), pictures()
    first, again = (diagnose(flow, x, batch_size=n) for n in (3, 64))
    noise = torch.rand(x.shape, generator=generator("cpu", "diagnose", 0), dtype=torch.float64)
    z, _ = flow.eval().bijection((x + noise) / 17 - 0.5)
    for k in range(2):
        assert first["latents"][k]["mean"] == pytest.approx(z[k].mean().item(), rel=1e-9)
        assert first["latents"][k]["quantiles"] == pytest.approx(again["latents"][k]["quantiles"], rel=1e-9)
        assert first["latents"][k]["shape"] == list(flow.latent_shapes[k])
    assert diagnose(flow, x, seed=1)["latents"][0]["mean"] != first["latents"][0]["mean"]


def test_labels_reach_the_prior_of_their_class() -> None:
    flow, y = small_glow(class_conditional=True, classes=2).double(), torch.arange(10) % 2
    flow.bijection.top.embedding.weight.data[1, :8] = 100.0
    first, other = (diagnose(flow, pictures(), labels)["latents"][1]["mean"] for labels in (0 * y, y))
    assert other == pytest.approx(first - 50)  # half of the labels


# Scales and condition numbers


class Network(nn.Module):
    """Of two inputs two shifts and two raw scales, interleaved: no shift, and ``offset`` + input."""

    def __init__(self, *offset: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(x), x + self.offset), dim=2).flatten(1)


def test_scales_are_the_extremes_over_all_data_and_channels() -> None:
    couplings = [
        AffineCoupling(Network(1.0, -2.0), scale="tanh"),
        AffineCoupling(Network(0.0, 0.5), swap=True, scale="tanh"),
    ]
    x = normal(9, 4)
    flow = Flow(Composition(couplings), (4,)).double()
    scales = diagnose(flow, x, batch_size=2)["scales"]
    expected = []
    for coupling, given in zip(couplings, (x[:, :2], couplings[0](x)[0][:, 2:]), strict=True):
        s = (3 * torch.tanh((given + coupling.network.offset) / 3)).exp()
        expected.append([s.min().item(), s.max().item()])
    (level,) = scales["levels"]
    assert level["steps"] == [pytest.approx(pair) for pair in expected]
    smallest, largest = min(e[0] for e in expected), max(e[1] for e in expected)
    assert scales["smallest"] == level["smallest"] == pytest.approx(smallest)
    assert scales["largest"] == level["largest"] == pytest.approx(largest)


def test_scales_of_a_glow_are_per_level_and_step() -> None:
    flow = small_glow(min_scale=0.1).double()
    level: GlowLevel = flow.bijection.levels[1]
    level.unstack()[1].steps[2].network[-1].bias.data[1::2] = -2.0
    scales = diagnose(flow, pictures())["scales"]
    usual = 0.1 + 0.9 / (1 + math.exp(-2))
    assert scales["levels"][0]["steps"] == [pytest.approx([usual, usual])] * 2
    assert scales["levels"][1]["steps"] == [pytest.approx([usual, usual]), pytest.approx([0.55, 0.55])]
    assert scales["smallest"] == scales["levels"][1]["smallest"] == pytest.approx(0.55)
    assert diagnose(small_glow(coupling="additive"), pictures())["scales"] is None


@pytest.mark.parametrize("permutation", ["lu", "plain"])
def test_condition_numbers_are_those_of_the_matrices(permutation: str) -> None:
    flow = small_glow(permutation=permutation).double()
    mixing = flow.bijection.levels[1].steps.steps[1]
    if permutation == "plain":
        mixing.matrix.data[1] = torch.diag(torch.tensor([1.0, 1, 1, 1, 1, 1, 2, 16]))
    else:  # P and the signs do not change singular values
        mixing.lower.data[1], mixing.upper.data[1] = 0, 0
        mixing.logs.data[1] = torch.tensor([1.0, 1, 1, 1, 1, 1, 2, 16]).log()
    conditions = diagnose(flow, pictures())["conditions"]
    assert conditions[0] == [pytest.approx(1, abs=1e-4)] * 2
    assert conditions[1] == [pytest.approx(1, abs=1e-4), pytest.approx(16)]


def test_flows_without_convolutions_have_no_condition_numbers() -> None:
    assert diagnose(small_glow(permutation="shuffle"), pictures())["conditions"] is None
    assert diagnose(identity(), normal(5, 6))["conditions"] is None


# The round trip


def test_the_round_trip_of_a_healthy_flow_is_tiny() -> None:
    flow = small_glow()
    flow.initialize(pictures(64))
    report = diagnose(shaken(flow, torch.float32), pictures())
    trip = report["round_trip"]
    names = ["mixing", *["step 1, actnorm", "step 1, mixing", "step 1, coupling"]]
    assert trip["steps"][:4] == [f"level 1, {name}" for name in names]
    assert trip["steps"][7:9] == ["level 1, prior", "level 2, mixing"]
    assert trip["scale"] == [0] * 8 + [1] * 8
    assert len(trip["largest"]) == len(trip["median"]) == 16
    assert 0 < trip["largest"][0] < 1e-5
    assert all(m <= big for m, big in zip(trip["median"], trip["largest"], strict=True))
    assert trip["lost"] <= 0.01
    assert report["dtype"] == "float32"


def test_the_round_trip_of_an_extreme_coupling_is_found() -> None:
    flow = small_glow()
    flow.initialize(pictures(64))
    flow.bijection.levels[1].unstack()[0].steps[2].network[-1].bias.data[1::2] = -25.0
    report = diagnose(flow, pictures())
    trip = report["round_trip"]
    place = trip["steps"].index("level 2, step 1, coupling")
    assert trip["largest"][place] > 1 > 1e-4 > trip["largest"][place + 1]
    assert trip["largest"][0] > 0.1
    assert trip["lost"] > 0.01
    lines = findings(report)
    assert any("goes wrong at level 2, step 1, coupling: raise model.min_scale" in line for line in lines)
    assert any("of the grey levels do not come back" in line for line in lines)
    assert any(
        "couplings scale by as little as 1.03e-10 (level 2): raise model.min_scale" in s for s in lines
    )


def test_differences_are_measured_where_they_arise() -> None:
    class Sloppy(Double):
        def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            error = torch.tensor([0.5, 0.25, 0.25, -0.125], dtype=z.dtype)
            return super().inverse(z)[0] + error, z.new_zeros(len(z))

    flow = Flow(Composition([Double(), ActNorm(4), Sloppy(), ActNorm(4)]), (4,)).double()
    trip = diagnose(flow, normal(5, 4))["round_trip"]
    assert trip["largest"] == pytest.approx([0.25, 0.5, 0.5, 0])
    assert trip["median"] == pytest.approx([0.125, 0.25, 0.25, 0])


def test_lost_grey_levels_are_counted() -> None:
    class Sloppy(ActNorm):
        def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return z + F.pad(z.new_full((1, 1, 2, 2), 1 / 17), (0, 2, 0, 2)), z.new_zeros(len(z))

    flow = small_glow().double()
    report = diagnose(
        Flow(Composition([Sloppy(1)]), (1, 4, 4), flow.dequantize), pictures()[..., :4, :4] // 2
    )
    assert report["round_trip"]["lost"] == pytest.approx(4 / 16)


# Findings


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
    assert "trainer.max_epochs" in line


def test_flows_are_told_their_own_settings() -> None:
    report = diagnose(identity(), normal(2000, 6) + 1)
    (line,) = findings(report)
    assert "scale 1 of 1 are too high by 0.99" in line
    assert "model.layers or model.hidden" in line
    (line,) = findings({**report, "unit": "bits/dim"})
    assert "model.depth or model.width" in line


def test_dependent_latents_are_found_by_their_norms() -> None:
    """Six times the same standard normal: nothing is wrong with any single coordinate."""
    (line,) = findings(diagnose(identity(), normal(500, 1).expand(500, 6)))
    assert "have squared norms" in line
    assert "from chi-square's (Kolmogorov-Smirnov distance)" in line


@pytest.mark.parametrize("permutation", ["lu", "plain"])
def test_a_convolution_that_is_nearly_singular_is_named(permutation: str) -> None:
    flow = small_glow(permutation=permutation)
    mixing = flow.bijection.levels[1].unstack()[1].steps[1]
    if permutation == "plain":
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
    flow = small_glow(permutation="plain")
    flow.bijection.levels[1].steps.steps[1].matrix.data[0] = 0
    report = diagnose(flow, pictures())
    json.dumps(report, allow_nan=False)
    lines = findings(report)
    assert report["conditions"][1][0] is None
    assert report["round_trip"]["largest"][0] is None
    assert any("condition number inf (1 of 2" in line for line in lines)
    assert any("the mean bits/dim is not finite" in line for line in lines)


def test_weights_that_are_not_finite_are_named_and_drawn() -> None:
    flow = small_glow()
    flow.bijection.levels[1].steps.steps[0].shift.data[1, 0] = torch.nan
    report = diagnose(flow, pictures())
    json.dumps(report, allow_nan=False)
    lines = findings(report)
    assert any("of the latents of scale 2 of 2 are not finite" in line for line in lines)
    assert not any("scale 1 of 2 are not finite" in line for line in lines)
    assert any("inverting from the latents misses the data by up to inf" in line for line in lines)
    assert diagnostics_picture(report).float().std() > 0


def change(report: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    for p in parents:
        report = report[p]
    report[last] = value


@pytest.mark.parametrize(
    ("name", "path", "bad", "words"),
    [
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
    line = findings(healthy)[0]
    assert words in line
    assert any(setting in line for setting in ("optimizer.", "model.", "trainer."))
    assert THRESHOLDS[name].meaning.endswith(".")


def test_every_threshold_is_tested() -> None:
    (mark,) = test_every_threshold_has_its_line.pytestmark
    assert {row[0] for row in mark.args[1]} == set(THRESHOLDS)


# The report and the flow


@pytest.mark.parametrize(
    "make", [small_glow, lambda: realnvp((6,), layers=2, hidden=4)], ids=["glow", "realnvp"]
)
def test_the_flow_stays_as_it_was_even_after_an_error(make: Callable[[], Flow]) -> None:
    flow = shaken(make(), torch.float32).train()
    for m in flow.modules():
        assert not m._forward_hooks
    next(m for m in flow.modules() if isinstance(m, AffineCoupling)).eval()
    state, modes = copy.deepcopy(flow.state_dict()), [m.training for m in flow.modules()]
    x = pictures() if flow.dequantize else torch.randn(10, 6)
    diagnose(flow, x)
    with pytest.raises(UsageError, match="not class-conditional"):
        diagnose(flow, x, torch.zeros(10, dtype=torch.long))
    assert [m.training for m in flow.modules()] == modes
    for name, value in flow.state_dict().items():
        assert torch.equal(value, state[name]) if isinstance(value, Tensor) else value == state[name]
    for m in flow.modules():
        assert not m._forward_hooks
        assert not m._forward_pre_hooks
        assert getattr(m, "fused", True)
        assert getattr(m, "smallest_scale", None) is None
        assert getattr(m, "_inverse", None) is None


def test_data_that_cannot_be_diagnosed_is_refused() -> None:
    with pytest.raises(UsageError, match="x has no examples"):
        diagnose(identity(), torch.zeros(0, 6))
    with pytest.raises(UsageError, match="y must be one integer label"):
        diagnose(small_glow(class_conditional=True, classes=2), pictures())
    with pytest.raises(UsageError, match="batch_size must be an integer above zero"):
        diagnose(identity(), torch.zeros(1, 6), batch_size=0)


def test_a_report_is_the_same_after_json() -> None:
    report = diagnose(shaken(small_glow()), pictures(1))
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again == report
    assert findings(again) == findings(report)
    assert report["bits"]["standard_error"] is None


# The picture


@pytest.mark.parametrize("levels", [1, 3])
def test_the_picture_shows_every_panel(levels: int) -> None:
    report = diagnose(shaken(small_glow(levels=levels)), pictures())
    picture = diagnostics_picture(report)
    assert picture.dtype == torch.uint8
    height, width = (544, 1120) if levels == 1 else (816, 1120)
    assert picture.shape == (3, height, width)
    rows = [picture[:, 30:].split((height - 30) // (2 if levels == 1 else 3) + 1, dim=1)][0]
    for row, columns in zip(rows, [2, 4] if levels == 1 else [3, 3, 4], strict=True):
        for panel in row.split(math.ceil(width / columns), dim=2):
            assert (panel.float().std(0) > 20).sum() > 50  # curves are coloured, axes and text are not
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "PNG")
    assert file.tell() < 300_000


def test_the_picture_follows_the_report() -> None:
    report = diagnose(identity(), normal(50, 6))
    first = diagnostics_picture(report)
    change(report, "latents.0.quantiles", [2 * q for q in report["latents"][0]["quantiles"]])
    changed = (diagnostics_picture(report) != first).any(0)
    half = changed.shape[1] // 2
    assert changed[:270, :half].any()
    assert not changed[:, half:].any()


def test_scaled_convolutions_are_not_steps() -> None:
    """Networks' layers belong to their coupling."""
    steps = diagnose(small_glow(), pictures())["round_trip"]["steps"]
    assert not any(ScaledConv2d.__name__ in s or "other" in s for s in steps)
