"""How small and how large the scales of affine couplings get: a small one has an inverse that enlarges errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Scales:
    """The extremes of all scales seen, scalars without gradients; None where there was none."""

    smallest: Tensor | None = None
    largest: Tensor | None = None

    def add(self, smallest: Tensor, largest: Tensor) -> None:
        """Take two scalars into account."""
        known = self.smallest, self.largest
        self.smallest = smallest if known[0] is None else torch.minimum(known[0], smallest)
        self.largest = largest if known[1] is None else torch.maximum(known[1], largest)


class RecordsScales:
    """A module that adds the scales which ``forward`` uses to ``recorder``, where there is one."""

    recorder: Scales | None = None


@contextmanager
def record_scales(module: nn.Module) -> Iterator[Scales]:
    """Record the scales that the affine couplings of ``module`` use inside, in ``forward``; it costs nothing outside.

    >>> from glow.bijections import Affine, Coupling, Halves
    >>> coupling = Coupling(Halves(), nn.Linear(1, 2), Affine(min_scale=0.1))
    >>> with record_scales(coupling) as scales:
    ...     z, log_det = coupling(torch.zeros(3, 2))
    >>> bool(scales.smallest > 0.1), bool(scales.largest < 1)
    (True, True)
    """
    scales = Scales()
    sources = [m for m in module.modules() if isinstance(m, RecordsScales)]
    before = [source.recorder for source in sources]
    for source in sources:
        source.recorder = scales
    try:
        yield scales
    finally:
        for source, recorder in zip(sources, before, strict=True):
            source.recorder = recorder


def add_scales(module: nn.Module, smallest: Tensor, largest: Tensor) -> None:
    """Record scales as if couplings of ``module`` had used them, where they are recorded: what a CUDA graph computed is known
    only from its results."""
    recorders = {id(m.recorder): m.recorder for m in module.modules() if isinstance(m, RecordsScales)}
    for recorder in recorders.values():
        if recorder is not None:
            recorder.add(smallest, largest)
