"""A trained Glow as a coder of images: grey levels to bits and back, exactly."""

import copy
import hashlib
import json
import lzma
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from glow.bijections import ActNorm, Composition, Gaussianize, LUConv1x1, SplitPrior
from glow.bijections.base import Bijection, Part
from glow.bijections.multiscale import SplitPart
from glow.codec.fixed import BITS
from glow.codec.levels import Marginals, UniformNoise
from glow.codec.stack import WORD, NotCodableError, Stack
from glow.codec.steps import Mixed, Prior, Step, step_of
from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.flows.flow import Flow
from glow.flows.labels import one_hot

VERSION = 1
"""Of the integers that a model becomes and of what is pushed when: part of the fingerprint."""
GROUP = 64
"""At most so many images are coded at once."""
GROUP_VALUES = 2**16
"""At most so many values are coded at once, unless one image has more."""
BORROWED = 20
"""Bits that a value borrows from the stack until it is coded, roughly: groups are as large as the stack has for them."""
STORED = 0
"""Instead of a group's size: one image that is stored as it is, whose bytes are the bits that the next ones borrow."""
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 2**20,
        "preset": 9 | lzma.PRESET_EXTREME,
        "lc": 0,
        "lp": 0,
        "pb": 0,
    }
]
"""A dictionary of a mebibyte: the preset's own takes 80 ms to make."""


class Split(nn.Module):
    """Half of the channels become latents, standardized by the prior, if there is one."""

    def __init__(self, prior: Prior | None) -> None:
        super().__init__()
        self.prior = prior


class Coder(nn.Module):
    """A flow in integers.

    Args:
        flow: a ``Glow`` with affine or additive couplings; what it becomes does not change with it. It computes on the
            flow's device if that is a CPU or CUDA.

    Raises:
        UsageError: part of it has no form in integers, which the message names.

    >>> from glow.flows import Glow
    >>> flow = Glow((1, 4, 4), 16, levels=1, depth=2, width=4, gaussianize=True)
    >>> images = torch.randint(16, (50, 1, 4, 4), dtype=torch.uint8)
    >>> flow.initialize(images)
    >>> coder, stack = Coder(flow.eval()), Stack()
    >>> coder.push(stack, images)
    >>> bool((coder.pop(stack, 50) == images).all()), len(stack)
    (True, 0)
    """

    def __init__(self, flow: Distribution) -> None:
        super().__init__()
        if (
            not isinstance(flow, Flow)
            or flow.dequantization is None
            or len(flow.event_shape) != 3
            or flow.observed
        ):
            raise UsageError(f"{type(flow).__name__}: only flows of images compress")
        if not flow.base.is_normal:
            raise UsageError(f"a base {type(flow.base).__name__} has no form in integers")
        self.shape, self.classes = flow.event_shape, flow.classes
        self.grey_levels = flow.dequantization.grey_levels
        self.dimensions = math.prod(self.shape)
        self.group = max(1, min(GROUP, GROUP_VALUES // self.dimensions))
        self.latent_shapes = flow.latent_shapes
        parts = list(copy.deepcopy(flow.bijection).cpu().parts())  # not every device has float64
        self.levels: Marginals | UniformNoise = UniformNoise(self.grey_levels)
        if isinstance(parts[0].bijection, Gaussianize):
            self.levels = Marginals(parts[0].bijection, parts.pop(0).name)
        self.steps = nn.ModuleList(_steps(parts))
        self.fingerprint = self._fingerprint()
        self.to(flow.device if flow.device.type == "cuda" else "cpu")

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.buffers()).device

    def push(
        self,
        stack: Stack,
        images: Tensor,
        labels: Tensor | None = None,
        progress: Callable[[int], None] = lambda left: None,
    ) -> None:
        """Images, the last one first, each in a group as large as the stack has bits for.

        Args:
            stack: where; it may be empty.
            images: integers (N, C, H, W).
            labels: (N,), -1 for none, of a class-conditional flow: what each is coded as, which is coded too.
            progress: called after every group with the number of images that are left.
        """
        rest = len(images)
        if self.classes and labels is None:
            labels = torch.full((rest,), -1)
        while rest:
            n = min(rest, self.group, len(stack) * WORD // (BORROWED * self.dimensions))
            while True:
                group, before = slice(rest - max(n, 1), rest), stack.copy()
                try:
                    self._push_group(stack, images[group], None if labels is None else labels[group], n)
                    break
                except NotCodableError:
                    stack.restore(before)
                    n = n // 2  # down to STORED
            rest = group.start
            progress(rest)

    def bits_among_others(self, images: Tensor, labels: Tensor | None = None) -> float:
        """The bits that each of some images adds to a file that many are in already, on average.

        Alone, images have nothing to borrow bits from, and the first is stored as it is; here the stack is long before.

        Args:
            images: integers (N, C, H, W), at least one; of a single image use copies, since a stack grows by whole words.
            labels: see ``push``.
        """
        count = 2 * len(images) * BORROWED * self.dimensions // WORD
        stack = Stack(np.random.default_rng(0).integers(1, 2**32, count, dtype=np.uint32))
        self.push(stack, images, labels)
        return (len(stack) - count) * WORD / len(images)

    def pop(self, stack: Stack, n: int, progress: Callable[[int], None] = lambda done: None) -> Tensor:
        """``n`` images, uint8 (n, C, H, W), in their order; no group is cut. After each it reports how many there are."""
        groups: list[Tensor] = []
        done = 0
        while done < n:
            groups.append(self._pop_group(stack))
            done += len(groups[-1])
            progress(done)
        return torch.cat(groups)

    def _push_group(self, stack: Stack, images: Tensor, labels: Tensor | None, n: int) -> None:
        if n == STORED:
            data = lzma.compress(
                images.to(torch.uint8).cpu().numpy().tobytes(), lzma.FORMAT_RAW, filters=FILTERS
            )
            stack.push(torch.tensor(list(data)), 256)
            stack.push(torch.tensor([len(data)]), 2**24)
        else:
            self._push_flow(stack, images, labels)
            if labels is not None:
                stack.push(labels.long() + 1, self.classes + 1)
        stack.push(torch.tensor([n]), GROUP + 1)

    def _pop_group(self, stack: Stack) -> Tensor:
        n = int(stack.pop(GROUP + 1, 1))
        if n == STORED:
            size = int(stack.pop(2**24, 1))
            if size > 2 * self.dimensions + 1024:
                raise ValueError(f"a stored image of {size} bytes")
            data = bytes(stack.pop(256, size).to(torch.uint8).numpy())
            stored = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS).decompress(data, self.dimensions)
            return torch.from_numpy(np.frombuffer(stored, np.uint8).copy()).view(1, *self.shape)
        labels = stack.pop(self.classes + 1, n) - 1 if self.classes else None
        return self._pop_flow(stack, n, labels)

    def _push_flow(self, stack: Stack, images: Tensor, labels: Tensor | None) -> None:
        x = self.levels(stack, images.to(self.device).movedim(1, 3))
        self._latents_of(stack, x, self._context(labels, len(images)))

    def _latents_of(self, stack: Stack, x: Tensor, context: Tensor | None) -> list[Tensor]:
        """One tensor (B, H, W, C) per scale, finest first; each is pushed when it leaves."""
        latents = []
        for step in self.steps:
            if isinstance(step, Split):
                x, leaving = x.chunk(2, dim=-1)
                if step.prior is not None:
                    leaving = step.prior(stack, leaving, x)
                stack.push_normal(leaving, BITS)
                latents.append(leaving)
            else:
                x = step(stack, x, context)
        stack.push_normal(x, BITS)
        return [*latents, x]

    def _pop_flow(self, stack: Stack, n: int, labels: Tensor | None) -> Tensor:
        context = self._context(labels, n)
        shapes = list(self.latent_shapes)
        x = self._pop_latents(stack, n, shapes.pop())
        for step in reversed(self.steps):
            if isinstance(step, Split):
                leaving = self._pop_latents(stack, n, shapes.pop())
                if step.prior is not None:
                    leaving = step.prior.inverse(stack, leaving, x)
                x = torch.cat((x, leaving), dim=-1)
            else:
                x = cast(Step, step).inverse(stack, x, context)
        return self.levels.inverse(stack, x).movedim(3, 1).to("cpu", torch.uint8)

    def _context(self, labels: Tensor | None, n: int) -> Tensor | None:
        context = one_hot(labels, n, self.classes)
        return None if context is None else context.to(self.device)

    def _pop_latents(self, stack: Stack, n: int, shape: tuple[int, ...]) -> Tensor:
        channels, height, width = shape
        return stack.pop_normal(n * math.prod(shape), BITS).view(n, height, width, channels).to(self.device)

    def _fingerprint(self) -> str:
        """Of all integers that it computes with, so that equal ones give equal files."""
        digest = hashlib.sha256(json.dumps([VERSION, self.shape, self.grey_levels, self.classes]).encode())
        for name, tensor in self.state_dict().items():
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _steps(parts: list[Part]) -> list[nn.Module]:
    steps: list[nn.Module] = []
    kept: ActNorm | None = None  # it becomes part of the matrix behind it
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        own: Bijection = part.bijection
        if isinstance(part, SplitPart):
            prior = Prior(own, part.name) if isinstance(own, SplitPrior) else None
            if prior is None and not (isinstance(own, Composition) and not len(own.steps)):
                raise UsageError(f"{part.name}: {type(own).__name__} has no form in integers")
            steps.append(Split(prior))
        elif isinstance(own, ActNorm) and after is not None and isinstance(after.bijection, LUConv1x1):
            kept = own
        elif isinstance(own, LUConv1x1) and kept is not None:
            steps.append(Mixed(kept, own))
            kept = None
        else:
            steps.append(step_of(own, part.name))
    return steps
