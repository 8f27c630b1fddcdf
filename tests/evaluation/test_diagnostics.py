"""What a diagnosis measures, and that it leaves the flow alone."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijections import ActNorm, Affine, Bijection, Composition, Coupling, FullConv1x1, Halves
from glow.errors import UsageError
from glow.evaluation.diagnostics import diagnose
from glow.evaluation.findings import findings
from glow.flows import Flow, RealNVP
from glow.fused import FusedLevel
from glow.networks import ScaledConv2d
from glow.seeds import generator

from .diagnosed import identity, normal, pictures, shaken, small_glow

pytestmark = pytest.mark.usefixtures("one_thread")


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
        {"coupling": "additive", "permutation": "full"},
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
    flow, x = shaken(RealNVP((5,), layers=3, hidden=4)), normal(20, 5)
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
    actnorm, matrix = ActNorm(4), FullConv1x1(4)
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
    z = flow.unflatten(flow.eval().bijection((x + noise) / 17 - 0.5)[0])
    for k in range(2):
        assert first["latents"][k]["mean"] == pytest.approx(z[k].mean().item(), rel=1e-9)
        assert first["latents"][k]["quantiles"] == pytest.approx(again["latents"][k]["quantiles"], rel=1e-9)
        assert first["latents"][k]["shape"] == list(flow.latent_shapes[k])
    assert diagnose(flow, x, seed=1)["latents"][0]["mean"] != first["latents"][0]["mean"]


def test_labels_reach_the_prior_of_their_class() -> None:
    flow, y = small_glow(class_conditional=True, classes=2).double(), torch.arange(10) % 2
    flow.bijection.top.given.data[:8, 1] = 100.0
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
        Coupling(Halves(), Network(1.0, -2.0), Affine("tanh")),
        Coupling(Halves(swap=True), Network(0.0, 0.5), Affine("tanh")),
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
    level: FusedLevel = flow.bijection.levels[1].steps[1]
    level.unstack()[1].steps[2].network[-1].bias.data[1::2] = -2.0
    scales = diagnose(flow, pictures())["scales"]
    usual = 0.1 + 0.9 / (1 + math.exp(-2))
    assert scales["levels"][0]["steps"] == [pytest.approx([usual, usual])] * 2
    assert scales["levels"][1]["steps"] == [pytest.approx([usual, usual]), pytest.approx([0.55, 0.55])]
    assert scales["smallest"] == scales["levels"][1]["smallest"] == pytest.approx(0.55)
    assert diagnose(small_glow(coupling="additive"), pictures())["scales"] is None


@pytest.mark.parametrize("permutation", ["lu", "full"])
def test_condition_numbers_are_those_of_the_matrices(permutation: str) -> None:
    flow = small_glow(permutation=permutation).double()
    mixing = flow.bijection.levels[1].steps[1].step.steps[1]
    if permutation == "full":
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
    flow.bijection.levels[1].steps[1].unstack()[0].steps[2].network[-1].bias.data[1::2] = -25.0
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
        Flow(Composition([Sloppy(1)]), (1, 4, 4), flow.dequantization), pictures()[..., :4, :4] // 2
    )
    assert report["round_trip"]["lost"] == pytest.approx(4 / 16)


def test_scaled_convolutions_are_not_steps() -> None:
    """Networks' layers belong to their coupling."""
    steps = diagnose(small_glow(), pictures())["round_trip"]["steps"]
    assert not any(ScaledConv2d.__name__ in s or "other" in s for s in steps)


# The report and the flow


@pytest.mark.parametrize(
    "make", [small_glow, lambda: RealNVP((6,), layers=2, hidden=4)], ids=["glow", "realnvp"]
)
def test_the_flow_stays_as_it_was_even_after_an_error(make: Callable[[], Flow]) -> None:
    flow = shaken(make(), torch.float32).train()
    for m in flow.modules():
        assert not m._forward_hooks
    next(m for m in flow.modules() if isinstance(m, Coupling)).eval()
    state, modes = copy.deepcopy(flow.state_dict()), [m.training for m in flow.modules()]
    x = pictures() if flow.dequantization else torch.randn(10, 6)
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
        diagnose(small_glow(class_conditional=True, classes=2), pictures(), torch.full((len(pictures()),), 2))
    with pytest.raises(UsageError, match="batch_size must be an integer above zero"):
        diagnose(identity(), torch.zeros(1, 6), batch_size=0)


def test_a_report_is_the_same_after_json() -> None:
    report = diagnose(shaken(small_glow()), pictures(1))
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again == report
    assert findings(again) == findings(report)
    assert report["bits"]["standard_error"] is None
