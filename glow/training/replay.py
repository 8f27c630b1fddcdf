"""Functions of tensors as CUDA graphs: captured once, then launched at once instead of kernel by kernel.

After PyTorch's manual, "CUDA semantics", section "CUDA Graphs": tensors in fixed places for what goes in, a few calls on a
side stream to warm up, then the capture, which records kernels and the addresses of what they read and write.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from glow.errors import without_looking_at_values

Work = Callable[[], tuple[Tensor, ...]]


def no_gpu(device: torch.device) -> str | None:
    """Why functions of tensors on a device cannot be replayed; None if they can."""
    return None if device.type == "cuda" else "CUDA graphs need a GPU"


def possible(obstacle: str | None, what: str) -> bool:
    """Whether nothing prevents graphs; warns that ``what`` goes on without them."""
    if obstacle is not None:
        rank_zero_warn(f"compile=graph: {obstacle}; {what} goes on without graphs")
    return obstacle is None


@cache
def side_stream(device: int) -> torch.cuda.Stream:
    """The one that graphs are warmed up and captured on: memory that is kept for a stream is kept once."""
    return torch.cuda.Stream(device)


class CudaGraphs:
    """How functions are run once to warm up, and captured: the lines that only a GPU can run."""

    def __init__(self) -> None:
        torch.backends.cuda.preferred_linalg_library("cusolver")  # MAGMA waits for the device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = side_stream(torch.cuda.current_device())

    def warm_up(self, work: Work) -> tuple[Tensor, ...]:
        """Do the work, on another stream, as ``torch.cuda.graph`` will: what is made once is then made."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    @contextmanager
    def waiting_is_an_error(self) -> Iterator[None]:
        """A context in which the host may not wait for the device."""
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(mode)

    def capture(self, work: Work) -> Work:
        """The work, to be done again by one launch; it gives the same tensors every time."""
        graph = torch.cuda.CUDAGraph()
        # Only this thread's mistakes count: another one may be pinning the memory of batches.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            result = work()

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return result

        return replay


class Rerun:
    """In the place of ``CudaGraphs`` where there is no GPU: does the work again, and leaves the results in the same tensors."""

    def warm_up(self, work: Work) -> tuple[Tensor, ...]:
        return work()

    def waiting_is_an_error(self) -> AbstractContextManager[None]:
        return nullcontext()

    def capture(self, work: Work) -> Work:
        places: list[Tensor] = []

        def replay() -> tuple[Tensor, ...]:
            result = work()
            places.extend(t.clone() for t in result[len(places) :])
            for place, t in zip(places, result, strict=True):
                place.copy_(t)
            return tuple(places)

        return replay


class Replays:
    """A function of tensors that is replayed: captured once for every shape of its arguments, after a few calls as it is.

    For more than ``MOST`` shapes, or where it cannot be captured, it is called as it is, after a warning. What it reads beside its
    arguments must stay in its place. Weights may change there, though not those whose inverses a flow keeps in order to generate.

    Args:
        function: takes tensors or None, gives a tuple of tensors.
        backend: warms up and captures; None for ``CudaGraphs``.
    """

    WARM_UP = 3
    MOST = 2
    """The batches of an epoch have two sizes at most, see ``glow.data.sampler``."""

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], backend: Any = None) -> None:
        self._function = function
        self._backend = backend or CudaGraphs()
        self._calls: dict[Any, int] = {}
        self._captured: dict[Any, tuple[list[Tensor | None], Work]] = {}
        self._given_up = False

    def __call__(self, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        """What the function gives, in tensors that nothing overwrites."""
        key = tuple(None if t is None else (t.shape, t.dtype) for t in inputs)
        calls = self._calls[key] = self._calls.get(key, 0) + 1
        if calls > self.WARM_UP and key not in self._captured and not self._given_up:
            with without_looking_at_values():
                self._capture(key, inputs)
        if key not in self._captured:
            return self._warm_up(lambda: self._work(inputs), last=calls == self.WARM_UP)
        places, replay = self._captured[key]
        for place, t in zip(places, inputs, strict=True):
            if place is not None and t is not None:
                place.copy_(t, non_blocking=True)
        with without_looking_at_values():
            return tuple(t.clone() for t in replay())

    def _work(self, inputs: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
        """What the function gives; the casts that autocast keeps would be those of the weights at the capture."""
        keeps = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)
        try:
            return self._function(*inputs)
        finally:
            torch.set_autocast_cache_enabled(keeps)

    def _warm_up(self, work: Work, last: bool) -> tuple[Tensor, ...]:
        """Do the work. What waits for the device is found the last time, since a capture that fails leaves much behind."""
        if last and not self._given_up:
            try:
                with without_looking_at_values(), self._backend.waiting_is_an_error():
                    return self._backend.warm_up(work)
            except torch.OutOfMemoryError:  # the caller may come back with less
                raise
            except RuntimeError as error:
                self._give_up(f"it needs the host ({str(error).splitlines()[0]})")
        return self._backend.warm_up(work)

    def _capture(self, key: Any, inputs: Sequence[Tensor | None]) -> None:
        if len(self._captured) == self.MOST:
            return self._give_up(f"batches have more than {self.MOST} shapes")
        places = [None if t is None else t.clone() for t in inputs]
        try:
            self._captured[key] = places, self._backend.capture(lambda: self._work(places))
        except torch.OutOfMemoryError:
            self._give_up("the memory does not suffice for a graph beside what is there")
        except RuntimeError as error:
            self._give_up(f"it needs the host ({str(error).splitlines()[0]})")

    def _give_up(self, why: str) -> None:
        self._given_up = True
        rank_zero_warn(f"compile=graph: {why}; what is not captured yet is launched kernel by kernel")


class Replayed:
    """``generate`` and ``log_prob`` of a model, replayed; for as long as its weights and its guidance stay as they are.

    Args:
        model: a ``Distribution`` in evaluation mode.
        backend: see ``Replays``.
    """

    def __init__(self, model: Any, backend: Any = None) -> None:
        self._generate = Replays(lambda y, *latents: (model.generate(latents, y),), backend)
        self._log_prob = Replays(lambda *inputs: (model.log_prob(*inputs),), backend)

    def generate(self, latents: Sequence[Tensor], y: Tensor | None = None) -> Tensor:
        """See ``Flow.generate``."""
        return self._generate(y, *latents)[0]

    def log_prob(self, x: Tensor, y: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """See ``Distribution.log_prob``."""
        return self._log_prob(x, y, noise)[0]
