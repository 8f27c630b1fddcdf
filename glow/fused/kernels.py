"""Triton kernels for coupling networks on a GPU: products that gather and mask as they go, columns, and their transpose.

They do in one pass over memory what ``products`` does with torch in several. They are operators of torch, so that compilers
leave them alone and tensors without values pass; autograd knows nothing of them.

The sizes of blocks are fixed, not tuned at run time: nothing is tried out while a CUDA graph is captured (the steps before that
compile the kernels), and results do not depend on what was fastest in a process. Functions of Triton that are themselves written in Triton (``tl.zeros``) are not
used, so that the kernels can run in Triton's interpreter, which ``TRITON_INTERPRET=1`` chooses when this file is imported.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from glow.fused.products import padded

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Blocks(NamedTuple):
    """What a program of ``product`` works on at once, by how many warps, and how many loads are under way."""

    rows: int
    outputs: int
    inputs: int
    warps: int
    stages: int


BLOCKS = {2: Blocks(128, 128, 64, 8, 3), 4: Blocks(64, 64, 32, 4, 3)}
"""By the bytes of an element."""


@triton.jit
def _neighbours(a, a_row, a_col, b, b_row, b_col, m, k, n, height, width, A: tl.constexpr, C: tl.constexpr):
    """Columns k (1, K), in order (dy, dx, channel), of the 3x3 neighbourhoods of pixels m (M, 1), zero outside of the image.

    The first A of C channels are those of ``a``, the others those of ``b``.
    """
    dy = k // (3 * C) - 1
    dx = k // C % 3 - 1
    channel = k % C
    y = m // width % height + dy
    x = m % width + dx
    inside = (m < n) & (k < 9 * C) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    source = (m + dy * width + dx).to(tl.int64)  # rows times columns may exceed 2^31
    tile = tl.load(a + source * a_row + channel * a_col, inside & (channel < A), other=0.0)
    if b is not None:
        tile += tl.load(b + source * b_row + (channel - A) * b_col, inside & (channel >= A), other=0.0)
    return tile


@triton.jit
def _product(
    x, x_row, x_col, weight, w_row, w_col, bias, mask, y, n, outputs, height, width,
    C: tl.constexpr, K: tl.constexpr, RELU: tl.constexpr,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """C is the number of channels of neighbourhoods, or 0 for rows as they are; K is the number of inputs."""
    # Programs that follow each other share rows, which are then read once; the weights fit into the cache.
    across = (outputs + OUTPUTS - 1) // OUTPUTS
    m = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)[:, None]
    o = tl.program_id(0) % across * OUTPUTS + tl.arange(0, OUTPUTS)[None, :]
    total = tl.full((ROWS, OUTPUTS), 0.0, tl.float32)
    for start in range(0, K, INPUTS):
        k = start + tl.arange(0, INPUTS)[None, :]
        if C == 0:
            rows = tl.load(x + m.to(tl.int64) * x_row + k * x_col, (m < n) & (k < K), other=0.0)
        else:
            rows = _neighbours(x, x_row, x_col, None, 0, 0, m, k, n, height, width, C, C)
        k = start + tl.arange(0, INPUTS)[:, None]
        weights = tl.load(weight + o * w_row + k * w_col, (o < outputs) & (k < K), other=0.0)
        rows = rows.to(weights.dtype)
        if INTERPRETED:  # which takes bfloat16 for integers
            rows = rows.to(tl.float32)
            weights = weights.to(tl.float32)
        total = tl.dot(rows, weights, total, input_precision="ieee")
    if bias is not None:
        total += tl.load(bias + o, o < outputs, other=0.0).to(tl.float32)
    if RELU:
        total = tl.where(total < 0.0, 0.0, total)  # keeps NaN, unlike a maximum
    place = m.to(tl.int64) * outputs + o
    written = (m < n) & (o < outputs)
    if mask is not None:
        total = tl.where(tl.load(mask + place, written, other=0.0).to(tl.float32) <= 0.0, 0.0, total)
    tl.store(y + place, total, written)


@triton.jit
def _im2col(
    a, a_row, a_col, b, b_row, b_col, y, n, columns, height, width,
    A: tl.constexpr, C: tl.constexpr, ONES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    k = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tile = _neighbours(a, a_row, a_col, b, b_row, b_col, m, k, n, height, width, A, C)
    if ONES:
        tile = tl.where(k == 9 * C, 1.0, tile)
    tl.store(y + m.to(tl.int64) * columns + k, tile, (m < n) & (k < columns))


@triton.jit
def _col2im(x, x_row, y, n, height, width, C: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.arange(0, CHANNELS)[None, :]
    total = tl.full((ROWS, CHANNELS), 0.0, tl.float32)
    for tap in tl.static_range(9):
        dy = 1 - tap // 3
        dx = 1 - tap % 3
        row = m // width % height + dy
        column = m % width + dx
        inside = (m < n) & (c < C) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        source = (m + dy * width + dx).to(tl.int64)
        total += tl.load(x + source * x_row + tap * C + c, inside, other=0.0).to(tl.float32)
    tl.store(y + m.to(tl.int64) * C + c, total, (m < n) & (c < C))


@torch.library.custom_op("glow::product", mutates_args=())
def product(
    x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool, mask: Tensor | None, height: int, width: int
) -> Tensor:
    """x W^T + b for x (N, in) and W (out, in), in the dtype of W: (N, out).

    Args:
        x: rows, in a dtype that is converted to that of ``weight``.
        weight: in bfloat16, float16 or float32, whose products are IEEE; sums are in float32. If height is not 0, the form
            of ``products.first_weight``.
        bias: (out,).
        relu: rectify.
        mask: (N, out), contiguous; the result is zero where it is not above zero.
        height: of images whose pixels are the rows, to multiply the columns of their 3x3 neighbourhoods without making
            them; 0 to multiply the rows.
        width: of the images.
    """
    y = x.new_empty(len(x), len(weight), dtype=weight.dtype)
    blocks = BLOCKS[weight.element_size()]
    outputs = min(blocks.outputs, max(16, triton.next_power_of_2(len(weight))))
    grid = (triton.cdiv(len(x), blocks.rows) * triton.cdiv(len(weight), outputs),)
    with torch.cuda.device_of(x):
        _product[grid](
            x, *x.stride(), weight, *weight.stride(), bias, mask, y, *y.shape, height, width,
            C=x.shape[1] if height else 0, K=weight.shape[1], RELU=relu,
            ROWS=blocks.rows, OUTPUTS=outputs, INPUTS=blocks.inputs,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return y


@product.register_fake
def _(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
    return x.new_empty(len(x), len(weight), dtype=weight.dtype)


@torch.library.custom_op("glow::im2col", mutates_args=())
def im2col(a: Tensor, b: Tensor | None, height: int, width: int, dtype: torch.dtype, ones: bool) -> Tensor:
    """``products.im2col`` of one part or two."""
    y = _columns(a, b, dtype, ones)
    c = a.shape[1] + (0 if b is None else b.shape[1])
    with torch.cuda.device_of(a):
        _im2col[triton.cdiv(len(a), 32), triton.cdiv(y.shape[1], 64)](
            a, *a.stride(), b, *((0, 0) if b is None else b.stride()), y, *y.shape, height, width,
            A=a.shape[1], C=c, ONES=ones, ROWS=32, COLUMNS=64,
        )  # fmt: skip
    return y


@im2col.register_fake
def _(a: Tensor, b: Tensor | None, height: int, width: int, dtype: torch.dtype, ones: bool) -> Tensor:
    return _columns(a, b, dtype, ones)


def _columns(a: Tensor, b: Tensor | None, dtype: torch.dtype, ones: bool) -> Tensor:
    c = a.shape[1] + (0 if b is None else b.shape[1])
    return a.new_empty(len(a), padded(9 * c + ones), dtype=dtype)


@torch.library.custom_op("glow::col2im", mutates_args=())
def col2im(x: Tensor, height: int, width: int, c: int) -> Tensor:
    """The transpose of ``im2col`` (without ones) in float32: (N, padded(9 c)) -> (N, c)."""
    y = x.new_empty(len(x), c, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _col2im[triton.cdiv(len(x), 32),](
            x, x.stride(0), y, len(x), height, width, C=c, ROWS=32, CHANNELS=triton.next_power_of_2(c)
        )
    return y


@col2im.register_fake
def _(x: Tensor, height: int, width: int, c: int) -> Tensor:
    return x.new_empty(len(x), c, dtype=torch.float32)
