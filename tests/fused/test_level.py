"""The level as one function against the level as K modules: the same numbers, with less kept."""

import copy
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from glow.bijections import (
    ActNorm,
    Affine,
    Composition,
    Coupling,
    Elementwise,
    FullConv1x1,
    Halves,
    LUConv1x1,
    Permutation,
    Repeated,
    Shift,
    Spline,
    record_scales,
)
from glow.errors import UsageError
from glow.flows import Glow, RealNVP
from glow.fused import FusedLevel, products, unfused
from glow.fused.products import col2im, im2col
from glow.networks import ConvNet

COUPLINGS: dict[str, Elementwise] = {
    "affine": Affine(),
    "affine bounded": Affine(min_scale=0.2),
    "additive": Shift(),
}
MIXINGS: dict[str, Callable[[int], Any]] = {
    "lu": LUConv1x1, "full": FullConv1x1, "reverse": Permutation.reverse, "shuffle": Permutation.shuffle,
}  # fmt: skip
CHANNELS = 8


def step(elementwise: Elementwise, mixing: str = "lu", swap: bool = False, **shifts: Any) -> Composition:
    half = CHANNELS // 2
    before = [ActNorm(CHANNELS), MIXINGS[mixing](CHANNELS)]
    network = ConvNet(half, elementwise.parameters * half, 8, **shifts)
    return Composition([*before, Coupling(Halves(swap), network, elementwise)])


def level(
    coupling: str = "affine", mixing: str = "lu", recompute: str = "none", depth: int = 3, away: float = 0.2
) -> FusedLevel:
    """In float64, away from where it starts."""
    made = FusedLevel([step(COUPLINGS[coupling], mixing) for _ in range(depth)], recompute).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += away * torch.randn_like(parameter)
    return made


def images(n: int = 3) -> Tensor:
    return torch.randn(n, CHANNELS, 3, 2, dtype=torch.float64)


def everything(made: FusedLevel, x: Tensor) -> dict[str, Tensor]:
    """Outputs and all gradients of a loss that depends on both outputs."""
    made.zero_grad()
    x = x.clone().requires_grad_()
    z, log_det = made(x)
    weights = torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)
    (torch.sin(z) * weights).sum().add((log_det * torch.arange(1, len(x) + 1)).sum()).backward()
    gradients = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"z": z.detach(), "log_det": log_det.detach(), "x.grad": x.grad, **gradients}


@pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_fused_and_unfused_agree_in_values_and_gradients(coupling: str, mixing: str, recompute: str) -> None:
    made, x = level(coupling, mixing, recompute), images()
    found = everything(made, x)
    with unfused(made):
        expected = everything(made, x)
    assert found.keys() == expected.keys()
    assert len(found) >= 3 + len(list(made.parameters()))
    for name, value in expected.items():
        difference = (found[name] - value).norm() / value.norm()
        assert difference < 1e-10, (name, difference)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
@pytest.mark.parametrize("convolves", [True, False])
def test_as_convolutions_and_as_products(
    convolves: bool, recompute: str, coupling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CPU computes in float32, and what a GPU does, in float64."""
    made, x = level(coupling, recompute=recompute), images()
    with unfused(made):
        expected = everything(made, x)
    monkeypatch.setattr(products, "use_convolution", lambda x: convolves)
    found = everything(made, x)
    for name, value in expected.items():
        assert (found[name] - value).norm() / value.norm() < 1e-10, name
    with torch.no_grad():
        torch.testing.assert_close(made.inverse(found["z"])[0], x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_fused_inverse_and_its_gradients_agree_with_the_unfused_ones(coupling: str) -> None:
    made = level(coupling)
    z = torch.randn(3, CHANNELS, 3, 2, dtype=torch.float64)
    found = []
    for context in (nullcontext(), unfused(made)):
        with context:
            made.zero_grad()
            v = z.clone().requires_grad_()
            x, log_det = made.inverse(v)
            (torch.sin(x).sum() + log_det.sum()).backward()
            gradients = [p.grad.clone() for p in made.parameters() if p.grad is not None]
            found.append([x, log_det, v.grad, *gradients])
    assert len(found[0]) == len(found[1])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)


def test_float32_log_prob_is_within_1e_4_bits_per_dim_of_the_unfused_float64_path() -> None:
    flow = Glow((3, 16, 16), depth=8, width=32)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    x, noise = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8), torch.rand(8, 3, 16, 16)
    flow.eval()
    with torch.no_grad():
        found = flow.log_prob(x, noise=noise).double()
        with unfused(flow.double()):
            expected = flow.log_prob(x, noise=noise.double())
    assert ((found - expected).abs() / (3 * 16 * 16 * 0.6931)).max() < 1e-4


def test_under_autocast_the_networks_run_in_bf16_and_the_round_trip_stays_exact() -> None:
    made = level().float().eval()
    x = images().float()
    with torch.no_grad():
        z32, _ = made(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z, log_det = made(x)
            back, _ = made.inverse(z)
    assert z.dtype == log_det.dtype == back.dtype == torch.float32
    assert 1e-5 < (z - z32).abs().max() < 0.5
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_autocast_leaves_float64_alone() -> None:
    made, x = level(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z, _ = made(x)
    torch.testing.assert_close(z, made(x)[0], rtol=0, atol=0)


def kept(made: FusedLevel, x: Tensor) -> int:
    """Bytes that autograd keeps of a forward pass, parameters not counted."""
    known = {p.untyped_storage().data_ptr() for p in made.parameters()}
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known and t.shape[0] >= len(x) * 6:  # of pixels, not of weights
            sizes[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        made(x)
    return sum(sizes.values())


def test_what_each_way_of_recomputing_keeps() -> None:
    x = torch.randn(16, CHANNELS, 4, 4, dtype=torch.float64)
    level_input = 16 * 2 * 8 * 8 * 8
    sizes = {
        r: {k: kept(level(recompute=r, depth=k), x) for k in (4, 8)} for r in ("none", "step", "reversible")
    }
    assert sizes["none"][8] > 1.8 * sizes["none"][4] > 4 * sizes["step"][4]
    assert sizes["step"][8] - sizes["step"][4] == 2 * level_input, "every other step's input"
    assert sizes["reversible"][8] == sizes["reversible"][4] <= 2 * level_input


def test_columns_and_their_transpose_are_a_convolution_and_its_transpose() -> None:
    b, h, w, c, width = 2, 5, 4, 3, 7
    x = torch.randn(b, c, h, w, dtype=torch.float64)
    kernel = torch.randn(width, c, 3, 3, dtype=torch.float64)
    rows = x.permute(0, 2, 3, 1).reshape(-1, c)
    matrix = torch.nn.functional.pad(kernel.permute(0, 2, 3, 1).flatten(1), (0, 5))
    found = im2col(rows[:, :1], rows[:, 1:], space=(b, h, w), dtype=x.dtype) @ matrix.T
    expected = torch.nn.functional.conv2d(x, kernel, padding=1)
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1).reshape(-1, width))
    y = torch.randn_like(expected)
    transposed = torch.nn.functional.conv_transpose2d(y, kernel, padding=1).permute(0, 2, 3, 1).reshape(-1, c)
    y_rows = y.permute(0, 2, 3, 1).reshape(-1, width)
    torch.testing.assert_close(col2im(y_rows, matrix, (b, h, w), c), transposed)


def test_a_second_derivative_is_refused() -> None:
    x = images().requires_grad_()
    (g,) = torch.autograd.grad(level()(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.parametrize("edit", ["in place", "through .data", "load_state_dict", "dtype"])
def test_the_kept_inverse_follows_the_weights(edit: str) -> None:
    made, z = level("affine bounded"), torch.randn(2, CHANNELS, 3, 2, dtype=torch.float64)
    with torch.inference_mode():
        made.inverse(z)
        before = made._inverse
        made.inverse(z)
        assert made._inverse is before, "the second call should have used the first one's inverse"
    with torch.no_grad():
        if edit == "in place":
            made.step.steps[1].upper.add_(0.1)
        elif edit == "through .data":
            made.step.steps[1].upper.data.add_(0.1)
        elif edit == "load_state_dict":
            made.load_state_dict(level("affine bounded").state_dict())
        else:
            made, z = made.float(), z.float()
        x, _ = made.inverse(z)
        torch.testing.assert_close(made(x)[0], z, rtol=1e-4, atol=1e-4)


def test_frozen_weights_after_inference_mode_still_differentiate() -> None:
    made, z = (
        level("affine bounded").requires_grad_(False),
        torch.randn(2, CHANNELS, 3, 2, dtype=torch.float64),
    )
    with torch.inference_mode():
        made.inverse(z)
    z.requires_grad_()
    made.inverse(z)[0].square().sum().backward()
    assert z.grad is not None


def test_a_copy_is_independent_and_the_same() -> None:
    made, x = level(), images()
    made.compile()  # what was compiled is not copied
    twin = copy.deepcopy(made)
    torch.testing.assert_close(twin(x)[0], made.eval()(x)[0])
    with torch.no_grad():
        twin.step.steps[0].shift += 1
    assert not torch.allclose(twin(x)[0], made(x)[0])


@pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("convolves", [True, False])
def test_gradients_in_the_precisions_that_people_train_in(
    convolves: bool, recompute: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At depth 32, as convolutions and as products."""
    monkeypatch.setattr(products, "use_convolution", lambda x: convolves)
    made, x = level("affine bounded", recompute=recompute, depth=32, away=0.02), images(8)
    with unfused(made):
        expected = everything(made, x)
    made.float()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = everything(made, x.float())
    tolerance = 1e-3 if dtype == torch.float32 else 0.1
    for name, value in expected.items():
        assert (found[name].double() - value).norm() / value.norm() < tolerance, name


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_batch_and_layout(n: int, layout: torch.memory_format) -> None:
    made, x = level(), images(n)
    expected = everything(made, x)
    found = everything(made, x.to(memory_format=layout))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_a_level_refuses_what_it_cannot_compute() -> None:
    for other in (
        step(Affine(), swap=True),
        step(Affine("tanh")),
        step(Spline(3)),
        Composition([ActNorm(8)]),
    ):
        assert not FusedLevel.supports(other)
        with pytest.raises(UsageError, match="scale='sigmoid', or additive; not swapped"):
            FusedLevel([other])
    with pytest.raises(UsageError, match="one step or more, alike but for their parameters"):
        FusedLevel([step(Affine(min_scale=m)) for m in (0.1, 0.2)])
    with pytest.raises(UsageError, match="one step or more, alike but for their parameters, got 0"):
        FusedLevel([])


def test_it_is_repeated_with_the_same_parameters_by_the_same_names() -> None:
    made, x = level(), images()
    slow = Repeated([step(Affine()) for _ in range(3)]).double()
    slow.load_state_dict(made.state_dict())
    with unfused(made):
        for a, b in zip(made(x), slow(x), strict=True):
            assert torch.equal(a, b)
    for a, b in zip(made(x), slow(x), strict=True):
        torch.testing.assert_close(a, b)


def test_unstacked_steps_share_the_parameters() -> None:
    made = level(depth=2)
    made.unstack()[1].steps[0].shift.data.fill_(7)
    shift = made.step.steps[0].shift
    assert (shift[1] == 7).all()
    assert (shift[0] != 7).all()


def test_the_scales_are_recorded_in_either_way() -> None:
    made, x = level("affine bounded"), images()
    with record_scales(made) as scales:
        made(x)
    with unfused(made), record_scales(made) as expected:
        made(x)
    assert scales.smallest is not None
    assert 0.2 <= scales.smallest < scales.largest < 1
    torch.testing.assert_close(scales.smallest, expected.smallest)
    torch.testing.assert_close(scales.largest, expected.largest)
    with record_scales(level("additive")) as none:
        level("additive")(x)
    assert none.smallest is None


def test_an_unknown_way_to_recompute() -> None:
    with pytest.raises(
        UsageError, match="recompute='steps' is not one of none, step, reversible; did you mean 'step'"
    ):
        level(recompute="steps")


@pytest.mark.slow
def test_a_compiled_flow_gives_the_same_and_takes_any_batch() -> None:
    flow = Glow((1, 8, 8), depth=2, width=8, levels=1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    flow.initialized = True
    x, noise = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), torch.rand(6, 1, 8, 8)

    def step(n: int) -> list[Tensor]:
        flow.zero_grad()
        loss = flow.log_prob(x[:n], noise=noise[:n])
        loss.sum().backward()
        return [loss.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)]

    expected = {n: step(n) for n in (6, 5)}
    drawn = flow.sample(3, generator=torch.Generator().manual_seed(0))
    keys = flow.state_dict().keys()
    flow.compile()
    [compiled] = [m for m in flow.modules() if isinstance(m, FusedLevel)]
    flow.eval().log_prob(x[:2], noise=noise[:2])  # does not decide what is compiled
    flow.train()
    for n in (6, 5, 6):
        for a, b in zip(step(n), expected[n], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    again = flow.sample(3, generator=torch.Generator().manual_seed(0))
    assert (again.int() - drawn.int()).abs().max() <= 1
    assert flow.state_dict().keys() == keys
    assert {d: shape[0] for d, shape in compiled._sizes.items()} == {"forward": 6, "inverse": 3}
    with pytest.raises(UsageError, match="only a Glow"):
        RealNVP((2,)).compile()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.parametrize("recompute", ["none", "reversible"])
def test_someone_s_own_compilation_of_a_whole_flow_gives_the_same(recompute: str) -> None:
    flow = Glow((1, 8, 8), depth=2, width=8, levels=2, recompute=recompute)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    flow.initialized = True
    x = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    compiled = torch.compile(flow)
    for n in (6, 3):
        noise = torch.rand(n, 1, 8, 8)
        found = []
        for f in (flow, compiled):
            flow.zero_grad()
            loss = f(x[:n], noise=noise)
            loss.mean().backward()
            found.append([loss.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert torch.isfinite(compiled(x)).all()
