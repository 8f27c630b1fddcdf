"""Trained flows on disk: a run's folder, a Lightning checkpoint, a safetensors file, or weights that come with the project."""

import errno
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import UnreadableError, UsageError, check_choice
from glow.flows import build
from glow.resolve import resolve
from glow.weights import is_shipped

OTHER_VERSION = "was written by another version of this program, whose weights have other names"
HEADER = "glow"
"""The key of a safetensors file's metadata that holds the configuration, as JSON."""

Classes = Mapping[str, Callable[..., Any]]
"""Classes of the caller's own by their dotted paths. A file can ask for these and for the tables' alone."""

DATA_KEYS = ("event_shape", "image_shape", "shape", "grey_levels", "classes")
"""Numbers of a model's configuration that describe the data, and of which nothing is made as often."""
MOST_PARTS = 1_000
"""So many of anything a configuration may ask for even where no weight shows it."""
ROUNDED = 2_048
"""Parameters with fewer numbers than this, scales and triangular factors of the flow's own, are exported as they are: rounding
them to float16 as well cost 2e-3 bits/dim instead of 1e-6, for 4 % of the file (a small Glow on MNIST)."""


@dataclass(frozen=True)
class SavedModel:
    """What a file holds, by value: no code of it has run.

    Attributes:
        path: the file.
        model: the configuration of ``glow.flows.build``.
        dataset: that of the data which it was trained on, if known.
        seed: of the run.
        steps: of the optimizer.
        weights: state dicts of the flow: ``raw``, and ``ema`` if the run averaged its weights.
    """

    path: Path
    model: dict[str, Any]
    dataset: dict[str, Any] | None
    seed: int
    steps: int
    weights: dict[str, dict[str, Any]]

    @property
    def best(self) -> str:
        """The weights to prefer: ``ema`` where there are some, else ``raw``."""
        return "ema" if "ema" in self.weights else "raw"

    def folder(self, output_dir: str | Path = "outputs") -> Path:
        """Where what is drawn and measured belongs: the run's folder, else the file's own.

        That of weights that come with the project is ``output_dir/NAME``: nothing is written into the package.
        """
        if is_shipped(self.path):
            return Path(output_dir) / self.path.stem
        return self.path.parents[1] if self.path.parent.name == "checkpoints" else self.path.parent

    def flow(self, weights: str | None = None, classes: Classes = {}) -> Distribution:  # noqa: B006
        """The flow, or other density, in evaluation mode, on the CPU.

        Args:
            weights: ``ema`` or ``raw``; None for the best there are.
            classes: the caller's own, by the dotted paths that ``_target_`` of the configuration may name.

        Raises:
            UsageError: no such weights in the file, they do not fit the model that it describes, or that model
                needs a class that is neither of this program nor of ``classes``.
        """
        chosen = self.best if weights is None else weights
        check_choice("weights", chosen, self.weights)
        state = self.weights[chosen]
        _check_counts(self.path, self.model, state)
        try:
            # Of "meta" tensors there are only shapes: a file gets no more memory than its own weights take. A class
            # of the caller's own may need real tensors, and is trusted.
            with torch.device("cpu" if classes else "meta"):
                flow = build(self.model, classes)
        except UsageError as error:
            raise UsageError(
                f"{self.path} was written by another version of this program, or with classes of your own: {error}"
            ) from error
        except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
            raise UsageError(f"{self.path} does not describe a model that can be built: {error}") from error
        try:
            built = flow.state_dict()
            flow.load_state_dict({k: _as(v, built.get(k)) for k, v in state.items()}, assign=True)
        except (RuntimeError, TypeError, KeyError) as error:
            raise UsageError(f"{self.path} {OTHER_VERSION}: use that version, or train anew") from error
        if any(tensor.is_meta for tensor in chain(flow.parameters(), flow.buffers())):
            raise UsageError(f"{self.path} does not hold all weights of its model")
        return flow.eval()

    def export(
        self,
        path: Path,
        weights: str | None = None,
        classes: Classes = {},  # noqa: B006
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write one kind of weights as safetensors, with the configuration in the header; see ``flow``.

        Args:
            path: the file; its folder is made where there is none.
            weights: see ``flow``.
            classes: see ``flow``.
            dtype: of the parameters in the file, which a float16 makes half as large; loading brings them back to
                float32. Small parameters and those whose range it has not, and all buffers (permutations, tables of
                the data), keep theirs.
        """
        chosen = self.best if weights is None else weights
        flow = self.flow(chosen, classes)
        tensors = {k: v.contiguous() for k, v in flow.state_dict().items() if isinstance(v, Tensor)}
        tensors |= {k: _rounded(tensors[k], dtype) for k, _ in flow.named_parameters()}
        metadata = {"model": self.model, "dataset": self.dataset, "seed": self.seed, "steps": self.steps}
        header = {"format": "pt", HEADER: json.dumps(metadata | {"weights": chosen})}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata=header)


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor in the type, or as it is where that would gain little or lose a value."""
    rounded = value.to(dtype)
    return rounded if value.numel() >= ROUNDED and rounded.isfinite().all() else value


def _as(value: Any, like: Any) -> Any:
    """A copy of a tensor in the type of another; anything else as it is."""
    both = isinstance(value, Tensor) and isinstance(like, Tensor)
    return value.to(like.dtype, copy=True) if both else value


def _check_counts(path: Path, model: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Refuse numbers of layers that the weights cannot have: building them would take for ever even without memory."""
    sizes = [size for value in state.values() if isinstance(value, Tensor) for size in value.shape]
    most = max(MOST_PARTS, len(state), *sizes, 0)
    for name, number in _integers(model, "model"):
        if number > most:
            raise UsageError(f"{path} says {name}={number:,}, and its weights are of a smaller model")


def _integers(value: Any, name: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key not in DATA_KEYS:
                yield from _integers(below, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from _integers(below, name)
    elif isinstance(value, int):
        yield name, value


def load(
    path: str | Path,
    weights: str | None = None,
    classes: Classes = {},  # noqa: B006
) -> Distribution:
    """A trained flow, or other density, in evaluation mode, on the CPU.

    Args:
        path: a run's folder (its best checkpoint is taken), a ``.ckpt`` or a ``.safetensors`` file, or else the name
            of weights that come with the project (``glow.weights.shipped``).
        weights: ``ema`` or ``raw``; None for the averaged ones where there are some.
        classes: the caller's own classes that the model was trained with: ``{"mypkg.Net": mypkg.Net}``.

    Raises:
        UsageError: there is no such file, it is no checkpoint, is cut short, is of another version, holds
            pickled code, or needs a class that is not in ``classes``.
    """
    return read_model(resolve(path)).flow(weights, classes)


def read_model(path: Path) -> SavedModel:
    """What a checkpoint or a safetensors file holds; nothing in it can run code.

    Raises:
        UsageError: it is neither, is cut short, or holds other things than weights and plain values.
    """
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)


def _read_checkpoint(path: Path) -> SavedModel:
    if not _is_whole(path):
        raise UsageError(f"{path} is no checkpoint, or is cut short or damaged")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever the reader of a damaged file runs into
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise UsageError(
                f"{path} holds pickled code; a checkpoint of this program has only tensors and plain values. It was "
                "not loaded"
            ) from error
        raise UsageError(f"{path} is no checkpoint, or is damaged ({type(error).__name__})") from error
    if not isinstance(content, dict) or not {"hyper_parameters", "state_dict"} <= content.keys():
        raise UsageError(
            f"{path} is no checkpoint of this program: it has no hyper_parameters and state_dict"
        )
    metadata = content["hyper_parameters"]
    if not isinstance(metadata, Mapping):
        raise UsageError(f"{path} is no checkpoint of this program: its hyper_parameters have no names")
    states: dict[str, Any] = {"raw": content["state_dict"]}
    if "current_model_state" in content:
        states = {"ema": content["state_dict"], "raw": content["current_model_state"]}
    if not all(
        isinstance(state, Mapping) and all(isinstance(k, str) for k in state) for state in states.values()
    ):
        raise UsageError(f"{path} is no checkpoint of this program: its state_dict holds no weights by name")
    weights = {
        kind: {k.removeprefix("flow."): v for k, v in state.items() if k.startswith("flow.")}
        for kind, state in states.items()
    }
    return _validated(path, dict(metadata, steps=content.get("global_step", 0)), weights)


def _is_whole(path: Path) -> bool:
    """Whether every part of the file has its checksum (CRC-32), which torch writes but does not look at."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except MemoryError:
        raise
    except Exception as error:  # whatever the reader of a damaged file runs into
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ENOENT):
            raise UnreadableError(f"{path} cannot be read now: {error.strerror}") from error
        return False


def _read_safetensors(path: Path) -> SavedModel:
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            tensors: dict[str, Any] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is no safetensors file, or is cut short ({error})") from error
    try:
        metadata = json.loads(header or "")
        weights = {str(metadata["weights"]): tensors | {"_extra_state": {"initialized": True}}}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} was not exported by this program: its header does not say which model the weights are of"
        ) from error
    return _validated(path, metadata, weights)


def _validated(path: Path, metadata: Mapping[str, Any], weights: dict[str, dict[str, Any]]) -> SavedModel:
    model, dataset, seed, steps = (metadata.get(k) for k in ("model", "dataset", "seed", "steps"))
    if not isinstance(model, Mapping) or not isinstance(dataset, Mapping | None):
        raise UsageError(f"{path} does not say which model its weights are of")
    if not isinstance(seed, int) or not isinstance(steps, int) or seed < 0:
        raise UsageError(f"{path} is no checkpoint of this program: its seed or steps are no numbers")
    return SavedModel(path, dict(model), None if dataset is None else dict(dataset), seed, steps, weights)
