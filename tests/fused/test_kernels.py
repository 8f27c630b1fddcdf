"""Triton's kernels against torch: in Triton's interpreter on the CPU, and on a GPU where there is one."""

import importlib
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from glow.errors import UsageError
from glow.fused import FusedLevel, products
from glow.fused.products import Space, col2im, first_weight, im2col, use_triton
from glow.fused.steps import backward_step, forward_step

from .levels import CHANNELS, conditioned_level, everything, images, level

kernels = pytest.importorskip("glow.fused.kernels")

TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""The interpreter truncates to bfloat16."""

IMAGES = [(2, 20, (4, 5, 7)), (3, 8, (3, 1, 1)), (6, 130, (1, 2, 3))]
"""c, width and B, H, W: no multiples of blocks, more than one block of rows, more than one of outputs."""


@pytest.fixture(params=["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where the kernels run: on a CPU in the interpreter. Levels take matrix products there, too."""
    device = request.getfixturevalue("device") if request.param == "gpu" else torch.device("cpu")
    monkeypatch.setattr(products, "use_convolution", lambda x: False)
    if device.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    importlib.reload(kernels)
    yield device
    monkeypatch.undo()
    importlib.reload(kernels)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels in the order of calls."""
    made: list[str] = []

    def noted(name: str) -> Any:
        kernel = getattr(kernels, name)

        def run(*args: Any) -> Any:
            made.append(name)
            return kernel(*args)

        return run

    for name in ("product", "im2col", "col2im"):
        monkeypatch.setattr(kernels, name, noted(name))
    return made


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("c", "width", "size"), IMAGES)
def test_a_product_gathers_neighbourhoods_adds_the_bias_and_rectifies(
    c: int, width: int, size: tuple[int, int, int], dtype: torch.dtype, place: torch.device
) -> None:
    b, h, w = size
    image = torch.randn(b, 2 * c, h, w, device=place)[:, :c]
    kernel, bias = torch.randn(1, width, c, 3, 3, device=place), torch.randn(width, device=place)
    rows = image.permute(0, 2, 3, 1).reshape(-1, c)
    wide = torch.cat((rows, rows), dim=1)
    found = kernels.product(wide[:, :c], first_weight(kernel)[0].to(dtype), bias.to(dtype), True, None, h, w)
    rounded = (t.to(dtype).double() for t in (image, kernel[0], bias))
    expected = F.conv2d(*rounded, padding=1).relu().permute(0, 2, 3, 1).reshape(-1, width)
    assert found.dtype == dtype
    assert distance(found, expected) < TOLERANCES[dtype]
    plain = kernels.product(
        wide, torch.cat((kernel[0, :, :, 1, 1],) * 2, 1).to(dtype), None, False, None, 0, 0
    )
    assert distance(plain, 2 * rows @ kernel[0, :, :, 1, 1].T) < 2 * TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_mask_is_exact_at_zero_and_nan_stays(dtype: torch.dtype, place: torch.device) -> None:
    g, weight = torch.randn(140, 33, device=place).to(dtype), torch.randn(20, 33, device=place).to(dtype)
    mask = torch.tensor([0.0, -0.0, 1e-7, -1.0, 2.0], device=place).to(dtype).repeat(140, 4)
    found = kernels.product(g, weight, None, False, mask, 0, 0)
    expected = torch.where(mask > 0, g.double() @ weight.double().T, 0.0)
    assert torch.equal(found != 0, mask > 0)
    assert distance(found, expected) < TOLERANCES[dtype]
    transposed = weight.T.contiguous().T  # as the backward pass has it
    assert torch.equal(kernels.product(g, transposed, None, False, mask, 0, 0), found)
    if dtype == torch.bfloat16 and place.type == "cpu":
        return  # the interpreter's conversion to bfloat16 loses NaN
    g[3] = torch.nan
    assert kernels.product(g, weight, None, True, None, 0, 0)[3].isnan().all()
    assert torch.equal(kernels.product(g, weight, None, False, mask, 0, 0)[3].isnan(), mask[3] > 0)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("c", "width", "size"), IMAGES)
def test_columns_and_their_transpose(
    c: int, width: int, size: tuple[int, int, int], dtype: torch.dtype, place: torch.device
) -> None:
    both = torch.randn(size[0] * size[1] * size[2], 2 * c, device=place)
    mine, torch_s = Space(*size, triton=True), Space(*size)
    tolerance = 2**-7 if dtype == torch.bfloat16 else 0.0
    for parts, ones in (((both[:, 1:c],), True), ((both[:, :c], both[:, c:]), False)):
        found = im2col(*parts, space=mine, dtype=dtype, ones=ones)
        expected = im2col(*parts, space=torch_s, dtype=dtype, ones=ones)
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
    matrix = torch.randn(width, products.padded(9 * c), device=place).to(dtype)
    a = torch.randn(len(both), width, device=place).to(dtype)
    torch.testing.assert_close(col2im(a, matrix, mine, c), col2im(a, matrix, torch_s, c), rtol=0, atol=0)


def on_both(made: FusedLevel, x: Tensor, context: Tensor | None = None) -> tuple[dict[str, Tensor], ...]:
    """Everything by Triton, and by torch."""
    found = []
    for made.kernels in ("triton", "torch"):
        found.append(everything(made, x, context))
        with torch.no_grad():
            found[-1]["x"], found[-1]["inverse log_det"] = made.inverse(found[-1]["z"], context)
    return found[0], found[1]


@pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
def test_a_level_is_the_same(recompute: str, place: torch.device, calls: list[str]) -> None:
    made, x = level("affine bounded", recompute=recompute).float().to(place), images().float().to(place)
    found, expected = on_both(made, x)
    for name, value in expected.items():
        assert distance(found[name], value) < 1e-4, name
    networks = 3 * (3 if recompute != "none" else 2)  # forward, again backward, inverse
    assert calls.count("product") == networks + 2 * 3, "and two masks a step"
    assert calls.count("im2col") == 2 * 3
    assert calls.count("col2im") == networks + 3


@pytest.mark.parametrize("coupling", ["affine", "additive"])
def test_a_level_with_shifts_by_position_and_context_is_the_same(coupling: str, place: torch.device) -> None:
    made = conditioned_level("none", coupling, position=True, context_channels=4).float().to(place)
    x, context = images(2).float().to(place), torch.randn(2, 4, device=place)
    found, expected = on_both(made, x, context)
    for name, value in expected.items():
        assert distance(found[name], value) < 1e-4, name


def test_a_level_in_bf16_is_close(place: torch.device, calls: list[str]) -> None:
    made, x = level(recompute="step", away=0.05).float().to(place), images().float().to(place)
    with torch.autocast(place.type, torch.bfloat16):
        found, expected = on_both(made, x)
    assert calls
    for name, value in expected.items():
        assert distance(found[name], value) < 0.05, name


def test_what_autograd_differentiates_and_float64_are_torch_s(place: torch.device, calls: list[str]) -> None:
    made = level()
    made.kernels = "triton"
    z = images().requires_grad_()
    made.to(place).inverse(z.to(place))[0].sum().backward()
    assert z.grad is not None
    everything(made, images().to(place))
    made.float().inverse(z.float().to(place))[0].sum().backward()
    assert not calls


def test_compilers_take_the_kernels_for_operators(place: torch.device) -> None:
    """Whole steps, without a break, with the same results."""
    made = level(depth=1).float().to(place)
    steps, _ = made._parameters_for(images().float().to(place), None)
    [step] = steps.unbind()
    space = Space(3, 3, 2, triton=True)
    x, g = torch.randn(2, 18, CHANNELS, device=place)
    total = torch.zeros(18, CHANNELS // 2, device=place)
    found = []
    for compiled in (True, False):
        forward, backward = (
            torch.compile(f, backend="aot_eager", fullgraph=True) if compiled else f
            for f in (forward_step, backward_step)
        )
        with torch.no_grad():
            z, log_scales, hidden = forward(x, total, step, space, 0.0)
            g_x, _, gradients = backward(g.clone(), total, x, z, hidden, step, None, space, 0.0)
        found.append([z, log_scales, g_x, *gradients])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_cpu_without_the_interpreter_takes_torch(calls: list[str]) -> None:
    made, x = level().float(), images().float()
    found, expected = on_both(made, x)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not calls


def test_without_triton_training_on_a_gpu_says_so_and_the_rest_takes_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "glow.fused.kernels")
    monkeypatch.delattr("glow.fused.kernels")
    assert not use_triton(torch.ones(1), True)
    with FakeTensorMode(), pytest.raises(UsageError, match="kernels='triton' needs Triton"):
        use_triton(torch.ones(1, device="cuda"), True)
    with FakeTensorMode():
        assert not use_triton(torch.ones(1, device="cuda"), False), "a checkpoint is sampled from without it"


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (90, "bf16"),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in ((80, "bf16"), (80, "fp32"), (90, "fp32"))),
    ],
)
def test_the_kernels_compile_for_gpus_that_are_not_here(
    capability: int, dtype: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To machine code, with tensor cores, and loads that are under way beside them; the interpreter does not check types."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compiled(kernel: Any, warps: int = 4, stages: int = 3, **arguments: Any) -> Any:
        """Strings are types, of values that divide by 16; the rest are constants."""
        given = [arguments.get(name) for name in kernel.arg_names]
        types = [v if isinstance(v, str) else "constexpr" for v in given]
        constants = {(i,): v for i, v in enumerate(given) if not isinstance(v, str)}
        divisible = {(i,): [["tt.divisibility", 16]] for i, v in enumerate(given) if isinstance(v, str)}
        source = ASTSource(kernel, dict(zip(kernel.arg_names, types, strict=True)), constants, divisible)
        target = GPUTarget("cuda", capability, 32)
        return compile(source, target, {"num_warps": warps, "num_stages": stages})

    low, b = f"*{dtype}", kernels.BLOCKS[2 if dtype == "bf16" else 4]
    image = {"n": "i32", "height": "i32", "width": "i32"}
    product = partial(
        compiled, kernels._product, b.warps, b.stages, **image, ROWS=b.rows, OUTPUTS=b.outputs, INPUTS=b.inputs,
        x_row="i32", x_col=1, weight=low, y=low, outputs="i32",
    )  # fmt: skip
    first = product(x="*fp32", w_row="i32", w_col=1, bias=low, C=12, K=112, RELU=True)
    masked = product(x=low, w_row=1, w_col="i32", mask=low, C=0, K=512, RELU=False)
    for found in (first, masked):
        assert "cp.async" in found.asm["ptx"]
        assert dtype != "bf16" or {90: "wgmma", 80: "mma.sync"}[capability] in found.asm["ptx"]
        assert capability == 90 or found.metadata.shared <= 99 * 1024, "the least of a GPU since Ampere"
    rows = {"a_row": "i32", "a_col": 1, "b_row": "i32", "b_col": 1}
    compiled(
        kernels._im2col, **image, **rows, a="*fp32", b="*fp32", y=low, columns="i32",
        A=6, C=12, ONES=True, ROWS=32, COLUMNS=64,
    )  # fmt: skip
    compiled(kernels._col2im, **image, x=low, x_row="i32", y="*fp32", C=12, ROWS=32, CHANNELS=16)


def test_an_unknown_kind_of_kernels() -> None:
    with pytest.raises(
        UsageError, match="kernels='tritn' is not one of torch, triton; did you mean 'triton'"
    ):
        FusedLevel(level().unstack(), kernels="tritn")
