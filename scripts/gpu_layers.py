"""Microseconds of each layer of the paper's coupling networks by torch, by Triton and as a convolution, for ``gpu_speed``."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.fused import products
from glow.fused.products import Space

if TYPE_CHECKING:
    from gpu_report import Report

BLOCKS = [(128, 128, 64, 8, 3), (128, 128, 64, 8, 4), (128, 256, 64, 8, 3), (64, 128, 64, 4, 4)]
"""What may replace the kernels' own ``BLOCKS`` of 16 bits."""

PRODUCTS = ("first forward", "middle forward", "middle backward", "last backward")
"""The layers of which Triton computes the product."""

OTHERS = ("last forward", "columns")


def layers(
    images: int, c: int, side: int, width: int, device: torch.device
) -> dict[str, list[Callable[[], Any]]]:
    """Calls of every layer by name, in bf16: by torch, by Triton, and, but for columns, as a convolution.

    c channels condition; the last layer has 2 c outputs, whose gradient is given in two parts, as by an affine coupling.
    """
    low, n = torch.bfloat16, images * side * side
    spaces = plain, _ = Space(images, side, side), Space(images, side, side, triton=True)
    x, *parts = (torch.randn(n, c, device=device) for _ in range(3))
    a, g = (torch.randn(n, width, device=device).relu().to(low) for _ in range(2))
    bias = torch.randn(width, device=device).to(low)
    shapes = (1, width, c, 3, 3), (1, width, width, 1, 1), (1, 2 * c, width, 3, 3)
    # In float64 their forms are those of products on a CPU, too.
    kernels = [torch.randn(shape, device=device, dtype=torch.float64) for shape in shapes]
    forms = products.first_weight, products.middle_weight, products.last_weight
    w1, w2, w3 = (form(kernel)[0].to(low) for form, kernel in zip(forms, kernels, strict=True))
    columns = products.im2col(*parts, space=plain, dtype=low)
    # cuDNN wants channels in multiples of 8.
    wide_x, wide_g = F.pad(x.to(low), (0, -c % 8)), F.pad(torch.cat(parts, 1).to(low), (0, -2 * c % 8))
    k1, k2, k3 = (kernel[0].to(low) for kernel in kernels)
    k1, k3 = F.pad(k1, (0, 0, 0, 0, 0, -c % 8)), F.pad(k3, (0, 0, 0, 0, 0, 0, 0, -2 * c % 8))
    k1, k3 = (k.to(memory_format=torch.channels_last) for k in (k1, k3))

    def gradient(g: Tensor, kernel: Tensor) -> Tensor:
        image = products.as_image(a, plain)
        found = torch.ops.aten.convolution_backward(
            products.as_image(g, plain), image, kernel, None, [1, 1], [kernel.shape[2] // 2] * 2, [1, 1], False,
            [0, 0], 1, [True, False, False],
        )  # fmt: skip
        return products.relu_backward(products.as_rows(found[0]), a)

    def by_product(*args: Any) -> Tensor:
        return products.kernels().product(*args)

    return {
        "first forward": [
            *(lambda s=s: products.first_layer(x, w1, bias, s) for s in spaces),
            lambda: products.convolution(wide_x, k1, bias, plain, relu=True),
        ],
        "middle forward": [
            lambda: products.middle_layer(a, w2, bias, plain),
            lambda: by_product(a, w2, bias, True, None, 0, 0),
            lambda: products.convolution(a, k2, bias, plain, relu=True),
        ],
        "middle backward": [
            *(lambda s=s: products.linear_where(a, g, w2.T, s) for s in spaces),
            lambda: gradient(g, k2),
        ],
        "last forward": [
            *(lambda s=s: products.col2im(a, w3, s, 2 * c) for s in spaces),
            lambda: products.convolution(a, k3, None, plain),
        ],
        "last backward": [
            *(lambda s=s: products.linear_where(a, columns, w3, s) for s in spaces),
            lambda: gradient(wide_g, k3),
        ],
        "columns": [lambda s=s: products.im2col(*parts, space=s, dtype=low) for s in spaces],
    }  # fmt: skip


def microseconds(call: Callable[[], Any], device: torch.device) -> float:
    """The median without the host's time; once, and with it, on a CPU."""
    if device.type == "cuda":
        from triton.testing import do_bench_cudagraph

        return 1e3 * do_bench_cudagraph(call, return_mode="median")
    start = time.perf_counter()
    call()
    return 1e6 * (time.perf_counter() - start)


@torch.no_grad()
def measure(calls: list[Callable[[], Any]], device: torch.device, search: bool) -> dict[str, Any]:
    """A row: all ways, and with ``search``, what other blocks make of the product."""
    kernels = products.kernels()
    if device.type == "cpu" and not kernels.INTERPRETED.value:
        return {"left out": "needs a GPU, or TRITON_INTERPRET=1"}
    ways = ("torch us", "triton us", "convolution us")
    found: dict[str, Any] = {way: microseconds(call, device) for way, call in zip(ways, calls, strict=False)}
    if search:
        kept, times = kernels.BLOCKS[2], {}
        try:
            for blocks in BLOCKS:
                kernels.BLOCKS[2] = kernels.Blocks(*blocks)
                times["x".join(map(str, blocks))] = microseconds(calls[1], device)
        finally:
            kernels.BLOCKS[2] = kept
        best = min(times, key=lambda blocks: times[blocks])
        found |= {"best us": times[best], "with blocks": best}
    return found


def report_layers(report: "Report", size: dict[str, Any]) -> None:
    """A row for every layer of every level."""
    c, side = size["image"][0], size["image"][1]
    for i in range(size["levels"]):
        c, side = 4 * c if i == 0 else 2 * c, side // 2
        shape = size["batch"], c // 2, side, size["width"], report.device
        for name in PRODUCTS + OTHERS:
            search = i == 0 and name in PRODUCTS  # the level that takes most time
            report.row(
                f"layer, {side}x{side}, {name}",
                lambda name=name, shape=shape, search=search: measure(
                    layers(*shape)[name], report.device, search
                ),
            )
