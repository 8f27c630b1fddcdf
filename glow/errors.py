"""Errors whose message is one sentence for the user, and the checks that raise them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class UsageError(ValueError):
    """An argument or a setting that cannot work.

    The message names it, says what was given and what is accepted. The commands print it without a stack trace.
    """


class UnreadableError(UsageError):
    """A file cannot be read at the moment, because of the disk or the network; it may be intact."""


class TrainingError(RuntimeError):
    """Training cannot go on, and no setting is wrong; the message says why. The commands print it without a stack trace."""


class NonFiniteError(TrainingError):
    """A loss or gradient was not finite; the message says where, and which checkpoint remains."""


class DiskFullError(TrainingError):
    """A file could not be written because the disk is full; the message names it."""


def nearest(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known names close to ``name``, else an empty string.

    >>> nearest("twomoons", ["two_moons", "rings"])
    "; did you mean 'two_moons'?"
    """
    close = get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def check_choice(name: str, value: object, options: Iterable[str]) -> None:
    """Raise ``UsageError`` unless ``value`` is one of ``options``."""
    options = list(options)
    if value not in options:
        raise UsageError(f"{name}={value!r} is not one of {', '.join(options)}{nearest(str(value), options)}")


def check_bool(name: str, value: object) -> None:
    """Raise ``UsageError`` unless ``value`` is true or false (Hydra reads ``no`` as a string)."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false, got {value!r}")


def check_positive(name: str, value: object, *, integer: bool = False, zero: bool = False) -> None:
    """Raise ``UsageError`` unless ``value`` is a finite number above zero (or zero, with ``zero``)."""
    kinds = int if integer else (int, float)
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if not number or not (0 <= value < float("inf")) or (value == 0 and not zero):  # type: ignore[operator]
        what = f"{'an integer' if integer else 'a number'} {'of at least' if zero else 'above'} zero"
        raise UsageError(f"{name} must be {what}, got {value!r}")


_blind = 0


@contextmanager
def without_looking_at_values() -> Iterator[None]:
    """A context in which nothing depends on the values of tensors, for which the host would have to wait for a GPU.

    Checks of values are left out (shapes and types are still checked), and what is kept for the present weights, such as the
    inverses of their matrices, is taken for right. For CUDA graphs, which replay what they did once, whatever the values.
    """
    global _blind
    _blind += 1
    try:
        yield
    finally:
        _blind -= 1


def looks_at_values() -> bool:
    """Whether values of tensors may be looked at; see ``without_looking_at_values``."""
    return not _blind
