"""Graphs in tests: on a CPU a stand-in, which minds as a GPU does where the host looks at values."""

from importlib import import_module
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glow.training import graphs, replay
from glow.training.replay import Rerun


class NoCopies(TorchDispatchMode):
    """Raises where a tensor goes from one kind of device to another."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        kinds = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor) and t.dim()}
        if len(kinds) > 1:
            raise RuntimeError(f"{func} copies between {kinds}")
        return out


class NoLooks(TorchDispatchMode):
    """Raises where the host looks at a value, or a shape depends on one."""

    tags: ClassVar[set[torch.Tag]] = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.tags & set(func.tags) or func is torch.ops.aten._linalg_check_errors.default:
            raise RuntimeError(f"{func} looks at a value")
        return func(*args, **(kwargs or {}))


class Strict(Rerun):
    """A stand-in that looks at no values."""

    def waiting_is_an_error(self) -> NoLooks:
        return NoLooks()


WHERE = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]
"""For tests of both; see ``device_of``."""


def device_of(request: pytest.FixtureRequest, where: str) -> str:
    """``cpu``, or the device of tests marked ``gpu``."""
    return "cpu" if where == "cpu" else str(request.getfixturevalue("device").type)


def count_captures(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[Any]:
    """What is captured from now on, one for each: by graphs on a ``cuda`` device, or else by ``Strict``, as on a GPU."""
    found: list[Any] = []
    backend: Any = replay.CudaGraphs if kind == "cuda" else Strict
    capture = backend.capture

    def counted(self: Any, work: Any) -> Any:
        again = capture(self, work)
        found.append(work)
        return again

    monkeypatch.setattr(backend, "capture", counted)
    if kind != "cuda":
        monkeypatch.setattr(replay, "CudaGraphs", backend)
        monkeypatch.setattr(replay, "no_gpu", lambda device: None)
        monkeypatch.setattr(graphs, "obstacle", lambda trainer: None)
    return found


def capturable_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimizers with ``capturable=True`` count their steps without looking, as on a GPU."""
    for kind in ("adam", "adamax"):  # AdamW is Adam
        optim = import_module(f"torch.optim.{kind}")
        monkeypatch.setattr(optim, "_get_capturable_supported_devices", lambda **_: ["cpu"])
