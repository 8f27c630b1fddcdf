"""The level as one function against the level as K modules: the same numbers, with less kept."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from glow.flows import Glow
from glow.fused import FusedLevel, products, unfused
from glow.fused.products import Space, col2im, im2col

from .levels import CHANNELS, COUPLINGS, MIXINGS, conditioned_level, everything, images, level


@pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
@pytest.mark.parametrize("coupling", ["affine bounded", "additive"])
@pytest.mark.parametrize(
    "shifts", [{"position": True}, {"context_channels": 4}, {"position": True, "context_channels": 4}]
)
def test_shifts_by_position_and_context_too(recompute: str, coupling: str, shifts: dict[str, Any]) -> None:
    made, x = conditioned_level(recompute, coupling, **shifts), images()
    context = torch.randn(len(x), 4).double() if "context_channels" in shifts else None
    found = everything(made, x, context)
    with unfused(made):
        expected = everything(made, x, context)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)
    with torch.no_grad():
        z, log_det = made(x, context)
        back, inverse_log_det = made.inverse(z, context)
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-9, atol=1e-9)


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
@pytest.mark.parametrize("convolution", [True, False])
def test_as_convolutions_and_as_products(
    convolution: bool, recompute: str, coupling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a CPU computes in float32, and what a GPU does, in float64."""
    made, x = level(coupling, recompute=recompute), images()
    with unfused(made):
        expected = everything(made, x)
    monkeypatch.setattr(products, "use_convolution", lambda x: convolution)
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
    found = im2col(rows[:, :1], rows[:, 1:], space=Space(b, h, w), dtype=x.dtype) @ matrix.T
    expected = torch.nn.functional.conv2d(x, kernel, padding=1)
    torch.testing.assert_close(found, expected.permute(0, 2, 3, 1).reshape(-1, width))
    y = torch.randn_like(expected)
    transposed = torch.nn.functional.conv_transpose2d(y, kernel, padding=1).permute(0, 2, 3, 1).reshape(-1, c)
    y_rows = y.permute(0, 2, 3, 1).reshape(-1, width)
    torch.testing.assert_close(col2im(y_rows, matrix, Space(b, h, w), c), transposed)


@pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("convolution", [True, False])
def test_gradients_in_the_precisions_that_people_train_in(
    convolution: bool, recompute: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At depth 32, as convolutions and as products."""
    monkeypatch.setattr(products, "use_convolution", lambda x: convolution)
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
