"""Convolutions of images as rows of channels, (N, c) with N = B H W: matrix products where these are faster."""

from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.errors import UsageError


class Space(NamedTuple):
    """The images whose pixels are the rows, and whether products of these are Triton's (see ``kernels``) or torch's."""

    batch: int
    height: int
    width: int
    triton: bool = False


def padded(columns: int) -> int:
    """A multiple of 16, with which the rows of a matrix begin where matrix units and Triton's vectors of any dtype want."""
    return -(-columns // 16) * 16


def im2col(*parts: Tensor, space: Space, dtype: torch.dtype, ones: bool = False) -> Tensor:
    """The 3x3 neighbourhoods of pixels (N, c), given in one part or more: (N, padded(9 c + ones)).

    In order (dy, dx, c), zero outside of the image. ``ones`` sets column 9c to one: with it, the gradient of a
    weight holds that of the bias.
    """
    b, h, w, triton = space
    if triton:
        return kernels().im2col(parts[0], parts[1] if len(parts) > 1 else None, h, w, dtype, ones)
    c = sum(part.shape[1] for part in parts)
    image = parts[0].new_zeros(b, h + 2, w + 2, c, dtype=dtype)
    start = 0
    for part in parts:
        image[:, 1:-1, 1:-1, start : start + part.shape[1]] = part.view(b, h, w, -1)
        start += part.shape[1]
    windows = image.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 1, 2, 4, 5, 3)  # (B, H, W, dy, dx, c)
    result = image.new_empty(b * h * w, padded(9 * c + ones))
    result[:, : 9 * c].view(b, h, w, 3, 3, c).copy_(windows)
    result[:, 9 * c :] = 0
    if ones:
        result[:, 9 * c] = 1
    return result


def as_image(rows: Tensor, space: Space) -> Tensor:
    """(N, c) -> (B, c, H, W) in channels_last."""
    return rows.contiguous().view(*space[:3], -1).permute(0, 3, 1, 2)


def as_rows(image: Tensor) -> Tensor:
    """(B, c, H, W) -> (N, c)."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def use_convolution(x: Tensor) -> bool:
    """Whether a coupling network is faster as convolutions on that device, in that dtype; else it is matrix products."""
    return x.device.type == "cpu" and has_fast_kernels(x.dtype)


def use_triton(x: Tensor, training: bool) -> bool:
    """Whether Triton's kernels compute on that device, in that dtype.

    Raises:
        UsageError: in training on a GPU, where Triton is not installed.
    """
    on_gpu = x.device.type == "cuda"
    try:
        interpreted = kernels().INTERPRETED.value
    except ImportError:
        if on_gpu and training:
            raise UsageError("kernels='triton' needs Triton, which is not installed") from None
        return False
    return bool(on_gpu or interpreted) and x.dtype != torch.float64


def kernels() -> ModuleType:
    """``glow.fused.kernels``, which needs Triton."""
    import glow.fused.kernels as module

    return module


def first_weight(weight: Tensor) -> Tensor:
    """The form that ``first_layer`` takes kernels (K, width, c, 3, 3) in: kernels, or matrices for ``im2col`` with ones."""
    if use_convolution(weight):
        return _channels_last(weight)
    matrix = weight.permute(0, 1, 3, 4, 2).flatten(2)
    return F.pad(matrix, (0, padded(matrix.shape[2] + 1) - matrix.shape[2]))


def middle_weight(weight: Tensor) -> Tensor:
    """The form that ``middle_layer`` takes kernels (K, out, in, 1, 1) in: kernels, or matrices (K, out, in)."""
    return weight if use_convolution(weight) else weight.flatten(2)


def last_weight(weight: Tensor) -> Tensor:
    """The form that ``last_layer`` takes kernels (K, c, width, 3, 3) in: kernels, or matrices for ``col2im``."""
    if use_convolution(weight):
        return _channels_last(weight)
    matrix = weight.flip(3, 4).permute(0, 2, 3, 4, 1).flatten(2)
    return F.pad(matrix, (0, padded(matrix.shape[2]) - matrix.shape[2]))


def first_layer(x: Tensor, weight: Tensor, bias: Tensor, space: Space, shift: Tensor | None = None) -> Tensor:
    """relu of a 3x3 convolution of few channels, (N, c) -> (N, width); for ``weight`` see ``first_weight``.

    ``shift`` broadcasts to (B, H W, width) and is added before the relu.
    """
    alone = shift is None  # in one kernel then
    if weight.dim() == 2 and space.triton:
        y = kernels().product(x, weight, bias, alone, None, space.height, space.width)
    elif weight.dim() == 2:
        y = linear(im2col(x, space=space, dtype=weight.dtype, ones=True), weight, bias, relu=alone)
    else:
        y = convolution(x.to(weight.dtype), weight, bias, space, relu=alone)
    if shift is None:
        return y
    y = y.view(space[0], -1, y.shape[1])
    y = (y + shift).relu() if torch.is_grad_enabled() else y.add_(shift).relu_()
    return y.flatten(0, 1)


def first_layer_backward(g: Tensor, x: Tensor, weight: Tensor, space: Space) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of that convolution without its relu for g (N, width): of x (N, c), weight and bias (width,)."""
    if weight.dim() == 2:
        c = x.shape[1]
        g_weight = g.T @ im2col(x, space=space, dtype=g.dtype, ones=True)
        return col2im(g, weight, space, c), g_weight, g_weight[:, 9 * c]
    return convolution_backward(g, x.to(g.dtype), weight, space)


def middle_layer(x: Tensor, weight: Tensor, bias: Tensor, space: Space) -> Tensor:
    """relu of a 1x1 convolution, (N, in) -> (N, out); for ``weight`` see ``middle_weight``."""
    if weight.dim() == 2:
        return linear(x, weight, bias, relu=True)
    return convolution(x, weight, bias, space, relu=True)


def middle_layer_backward(
    g: Tensor, x: Tensor, weight: Tensor, space: Space
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of that convolution without its relu for g (N, out): of what x (N, in) is the relu of, weight and bias (out,)."""
    if weight.dim() == 2:
        return linear_where(x, g, weight.T, space), g.T @ x, g.sum(0)
    g_x, g_weight, g_bias = convolution_backward(g, x, weight, space)
    return relu_backward(g_x, x), g_weight, g_bias


def last_layer(x: Tensor, weight: Tensor, bias: Tensor, space: Space) -> Tensor:
    """A 3x3 convolution to few channels, (N, width) -> (N, c), in float32 at least; for ``weight`` see ``last_weight``."""
    if weight.dim() == 2:
        return col2im(x, weight, space, len(bias)) + bias
    if bias.dtype == x.dtype:
        return convolution(x, weight, bias, space)
    return convolution(x, weight, None, space) + bias


def last_layer_backward(
    *parts: Tensor, x: Tensor, weight: Tensor, space: Space
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of that convolution for g (N, c), given in one part or two: of what x (N, width) is the relu of, weight and
    bias (c,)."""
    if weight.dim() == 2:
        c = sum(part.shape[1] for part in parts)
        g_columns = im2col(*parts, space=space, dtype=x.dtype)
        g_bias = g_columns[:, 4 * c : 5 * c].sum(0, dtype=parts[0].dtype)  # the middle of the neighbourhood
        return linear_where(x, g_columns, weight, space), x.T @ g_columns, g_bias
    g_x, g_weight, g_bias = convolution_backward(torch.cat(parts, dim=1).to(x.dtype), x, weight, space)
    return relu_backward(g_x, x), g_weight, g_bias


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, space: Space, relu: bool = False) -> Tensor:
    """A convolution that keeps height and width, (N, in) -> (N, out), rectified if asked."""
    y = F.conv2d(as_image(x, space), weight, bias, padding=weight.shape[2] // 2)
    if relu:
        y = y.relu() if torch.is_grad_enabled() else y.relu_()
    return as_rows(y)


def convolution_backward(g: Tensor, x: Tensor, weight: Tensor, space: Space) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a convolution that keeps height and width (without relu): of x (N, in), weight and bias."""
    padding = [weight.shape[2] // 2] * 2
    image, g_weight, g_bias = torch.ops.aten.convolution_backward(
        as_image(g, space), as_image(x, space), weight, [len(weight)],
        [1, 1], padding, [1, 1], False, [0, 0], 1, [True, True, True],
    )  # fmt: skip
    return as_rows(image), g_weight, g_bias


def _channels_last(kernels: Tensor) -> Tensor:
    return kernels.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)


def col2im(a: Tensor, weight: Tensor, space: Space, c: int) -> Tensor:
    """The transpose of ``x -> im2col(x) @ weight.T``: (N, width), (width, padded(9 c)) -> (N, c)."""
    b, h, w, triton = space
    if triton:
        return kernels().col2im(a @ weight, h, w, c)
    spread = F.pad((a @ weight).view(b, h, w, -1), (0, 0, 1, 1, 1, 1))
    total = a.new_zeros(b, h, w, c, dtype=torch.promote_types(a.dtype, torch.float32))
    for dy in range(3):
        for dx in range(3):
            first = (3 * dy + dx) * c
            total = total + spread[:, 2 - dy : 2 - dy + h, 2 - dx : 2 - dx + w, first : first + c]
    return total.view(-1, c)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """x W^T + b, rectified if asked, in a single kernel where there is one (which autograd knows nothing of)."""
    if torch.is_grad_enabled():
        y = F.linear(x, weight, bias)
        return y.relu() if relu else y
    return (
        _one_kernel(x, weight, bias, relu)
        if torch.compiler.is_compiling()
        else _linear(x, weight, bias, relu)
    )


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    if x.device.type == "cuda" and relu and bias is not None:
        return torch._addmm_activation(bias, x, weight.T)
    y = F.linear(x, weight, bias)
    return y.relu_() if relu else y


_one_kernel = torch.library.custom_op("glow::linear", _linear, mutates_args=())  # compilers leave it alone
_one_kernel.register_fake(lambda x, weight, bias, relu: x.new_empty(x.shape[0], weight.shape[0]))


def linear_where(a: Tensor, g: Tensor, weight: Tensor, space: Space) -> Tensor:
    """g W^T where the rectified ``a`` is above zero, and zero elsewhere."""
    if space.triton:
        return kernels().product(g, weight, None, False, a, 0, 0)
    return relu_backward(linear(g, weight), a)


def has_fast_kernels(dtype: torch.dtype) -> bool:
    """Whether this CPU has fast matrix products of a dtype; without them bf16 is ten times as slow as float32."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32


def relu_backward(g: Tensor, a: Tensor) -> Tensor:
    """``g`` where the rectified ``a`` is above zero; may overwrite ``g``."""
    return torch.ops.aten.threshold_backward.grad_input(g, a, 0, grad_input=g)
