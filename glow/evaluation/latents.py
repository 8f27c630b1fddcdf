"""What can be done with latents: decode many, walk between them, redraw some."""

from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from glow.flows.flow import Flow
from glow.seeds import draw

CPU_BATCH = 256
"""Images that are decoded at once on a CPU, where more are no faster."""

Latents = list[Tensor]
"""As ``Flow.encode`` gives them: one tensor (B, ...) per scale, finest first."""


class Decoded(NamedTuple):
    """Images, uint8 (N, C, H, W), or points (N, D), and which of them look wrong."""

    images: Tensor
    not_finite: list[int]
    """Indices of the images with values that are not finite; such pixels are black."""
    one_grey: list[int]
    """Indices of images that have one value everywhere."""


@torch.no_grad()
def decode(
    flow: Flow,
    latents: Sequence[Tensor],
    y: Tensor | None = None,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
    generate: Callable[..., Tensor] | None = None,
) -> Decoded:
    """Decode latents in batches, whose size is halved whenever memory does not suffice.

    Args:
        flow: in evaluation mode.
        latents: one tensor (N, ...) per scale, on any device.
        y: labels (N,) of a class-conditional flow.
        batch_size: to begin with; None for all at once on a GPU, ``CPU_BATCH`` on a CPU.
        progress: called after each batch with its number of images.
        generate: what is called in the place of ``flow.generate``.
    """
    n, generate = len(latents[0]), generate or flow.generate
    size = batch_size or (min(n, CPU_BATCH) if flow.device.type == "cpu" else n)
    images: list[Tensor] = []
    finite: list[Tensor] = []
    done = 0
    while done < n:
        part = slice(done, done + size)
        try:
            x: Tensor | None = generate(
                [z[part].to(flow.device, flow.dtype) for z in latents],
                None if y is None else y[part].to(flow.device),
            )
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            x = None
        if x is None:  # out here the exception no longer holds memory
            size = size // 2
            torch.cuda.empty_cache()
            continue
        finite.append(torch.isfinite(x).flatten(1).all(1).cpu())
        if flow.dequantization:
            x = flow.dequantization.quantize(torch.nan_to_num(x, nan=-0.5, posinf=-0.5, neginf=-0.5))
        images.append(x.cpu())
        done += len(x)
        if progress:
            progress(len(x))
    result, good = torch.cat(images), torch.cat(finite)
    flat = result.flatten(1)
    grey = flat.amin(1) == flat.amax(1) if flow.dequantization else torch.zeros_like(good)
    return Decoded(result, (~good).nonzero().flatten().tolist(), (grey & good).nonzero().flatten().tolist())


def line(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Straight from a to b, both (..., D), at t (T,): (T, ..., D)."""
    t = t.view(-1, *[1] * a.dim())
    return (1 - t) * a + t * b


def great_circle(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    r"""From a to b, both (..., D), at t (T,), along the great circle between their directions: (T, ..., D).

    .. math:: \frac{\sin((1 - t) \theta)}{\sin \theta} a + \frac{\sin(t \theta)}{\sin \theta} b

    with the angle :math:`\theta` between them (White 2016, section 2.1). The points of a standard normal lie near a
    sphere, which a straight line leaves.
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)[..., None].clamp(-1, 1)
    angle = cosine.acos()
    t = t.view(-1, *[1] * a.dim())
    near = (
        angle.sin().abs() < 1e-4
    )  # the same direction or the opposite one, which have no great circle of their own
    sine = torch.where(near, 1.0, angle.sin())
    turned = ((1 - t) * angle).sin() / sine * a + (t * angle).sin() / sine * b
    return torch.where(near, line(a, b, t.flatten()), turned)


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"great_circle": great_circle, "line": line}


def interpolate(vectors: Tensor, steps: int, path: str = "great_circle") -> Tensor:
    """Points between two latent vectors, (steps, D), or a sheet between four, (steps * steps, D) row by row.

    Args:
        vectors: (2, D), or (4, D): the corners top left, top right, bottom left, bottom right.
        steps: points along an edge, its ends included.
        path: a key of ``PATHS``.

    >>> interpolate(torch.tensor([[0.0, 0.0], [2.0, 4.0]]), steps=3, path="line").tolist()
    [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]
    """
    t = torch.linspace(0, 1, steps, device=vectors.device, dtype=vectors.dtype)
    if len(vectors) == 2:
        return PATHS[path](vectors[0], vectors[1], t)
    return sheet(vectors, t, t, path)


def sheet(corners: Tensor, across: Tensor, down: Tensor, path: str = "great_circle") -> Tensor:
    """Points of the sheet between four latent vectors, (rows * columns, D) row by row.

    Args:
        corners: (4, D): top left, top right, bottom left, bottom right.
        across: of the columns, (columns,), from 0 at the left to 1 at the right.
        down: of the rows, (rows,), from 0 at the top to 1 at the bottom.
        path: a key of ``PATHS``.
    """
    walk = PATHS[path]
    left, right = walk(corners[0], corners[2], down), walk(corners[1], corners[3], down)
    return walk(left, right, across).transpose(0, 1).flatten(0, 1)


def move(vectors: Tensor, directions: Tensor, strengths: Tensor) -> Tensor:
    """Latent vectors moved along directions, by several strengths each: (N * S, D), the strengths of a vector in a row.

    Args:
        vectors: (N, D).
        directions: (K, D).
        strengths: (S, K), of every direction.
    """
    return (vectors[:, None] + strengths @ directions).flatten(0, 1)


def redraw(
    latents: Sequence[Tensor], scales: Container[int], temperature: float, generator: torch.Generator
) -> Latents:
    """The latents with those of some scales replaced by noise, so that images show what the others hold.

    Args:
        latents: one tensor (N, ...) per scale, finest first.
        scales: which, 0 is the finest.
        temperature: of the noise, its standard deviation.
        generator: its source.
    """
    return [
        temperature * draw(torch.randn, *z.shape, generator=generator, device=z.device, dtype=z.dtype)
        if i in scales
        else z
        for i, z in enumerate(latents)
    ]
