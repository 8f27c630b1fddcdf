"""K equal bijections whose parameters are stacked."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from glow.bijections.base import Bijection, Part, Shape, no_log_det
from glow.bijections.composition import Inverse
from glow.errors import UsageError


class Repeated(Bijection):
    """K bijections one after another, alike but for their parameters, which are stacked.

    ``step`` is a single bijection whose parameters and buffers all have a leading dimension K. That makes them few, for
    the optimizer's sake, and ready for computing all steps at once (``glow.fused.FusedLevel``).

    Args:
        steps: K of them, which keep the shape of their input; the first one is taken over.

    Raises:
        UsageError: no steps, or steps that differ in more than their parameters.

    >>> from glow.bijections import ActNorm
    >>> f = Repeated([ActNorm(3) for _ in range(5)])
    >>> [tuple(p.shape) for p in f.parameters()]
    [(5, 3), (5, 3)]
    """

    fused = True
    """False inside ``unfused``, where a subclass, too, must call the modules of its steps."""

    def __init__(self, steps: Sequence[Bijection]) -> None:
        super().__init__()
        if len({str(step) for step in steps}) != 1:
            raise UsageError(
                f"{type(self).__name__} needs one step or more, alike but for their parameters, got {len(steps)}"
            )
        self.depth = len(steps)
        self.step = _stack(steps)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> (B, ...), log-det (B,)."""
        total = no_log_det(x)
        for own in self._slices():
            x, log_det = functional_call(self.step, own, (x, context))
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, ...) -> (B, ...), log-det (B,)."""
        total = no_log_det(z)
        inverse = Inverse(self.step)  # functional_call knows no other method than forward
        for own in reversed(self._slices()):
            named = {f"bijection.{name}": t for name, t in own.items()}
            z, log_det = functional_call(inverse, named, (z, context))
            total = total + log_det
        return z, total

    def output_shape(self, shape: Shape) -> Shape:
        return self.step.output_shape(shape)

    def unstack(self) -> list[Bijection]:
        """The K steps, sharing these parameters: a change through ``.data`` of theirs is one of these."""
        stacked = [*self.step.parameters(), *self.step.buffers()]
        return [copy.deepcopy(self.step, {id(t): t[k] for t in stacked}) for k in range(self.depth)]

    def parts(self) -> Iterator[Part]:
        for k, step in enumerate(self.unstack()):
            for part in step.parts():
                yield part.within(f"step {k + 1}")

    def _slices(self) -> list[dict[str, Tensor]]:
        """The parameters and buffers of each step by name, views of the stacked ones."""
        stacked = dict(self.step.named_parameters()) | dict(self.step.named_buffers())
        each = [t.unbind() for t in stacked.values()]
        return [dict(zip(stacked, (t[k] for t in each), strict=True)) for k in range(self.depth)]


def _stack(steps: Sequence[Bijection]) -> Bijection:
    """The first of equal modules, with the parameters and buffers of all."""
    stacked = steps[0]
    for name, module in stacked.named_modules():
        others = [m.get_submodule(name) for m in steps]
        for key in [k for k, _ in module.named_parameters(recurse=False)]:
            setattr(module, key, nn.Parameter(torch.stack([getattr(m, key).data for m in others])))
        for key in [k for k, _ in module.named_buffers(recurse=False)]:
            setattr(module, key, torch.stack([getattr(m, key) for m in others]))
    return stacked


@contextmanager
def unfused(module: nn.Module) -> Iterator[None]:
    """Inside it, every ``Repeated`` of ``module`` calls its steps' modules one by one, so that their hooks run."""
    levels = [m for m in module.modules() if isinstance(m, Repeated)]
    before = [level.fused for level in levels]
    for level in levels:
        level.fused = False
    try:
        yield
    finally:
        for level, fused in zip(levels, before, strict=True):
            level.fused = fused
