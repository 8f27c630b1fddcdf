"""Errors that are told in one sentence, and the checks that raise them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UsageError(ValueError):
    """An argument or a setting that cannot work.

    The message names it, says what was given and what is accepted. The commands print it as one
    sentence without a stack trace.
    """


class UnreadableError(UsageError):
    """A file that may be good cannot be read at the moment: the disk or the network refuses."""


class TrainingError(RuntimeError):
    """Training cannot go on, through no fault of a setting; the message says why. The commands print it as one sentence."""


class NonFiniteError(TrainingError):
    """Training met a loss or gradient that is not finite; the message says where and what is left."""


class DiskFullError(TrainingError):
    """A file could not be written for want of space; the message names it."""


def nearest(name: object, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the known names close to ``name``, else an empty string."""
    close = get_close_matches(str(name), [str(k) for k in known], n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def check_choice(name: str, value: object, options: Iterable[str]) -> None:
    """Raise ``UsageError`` unless ``value`` is one of ``options``."""
    options = list(options)
    if value not in options:
        raise UsageError(f"{name}={value!r} is not one of {', '.join(options)}{nearest(str(value), options)}")


def check_bool(name: str, value: object) -> None:
    """Raise ``UsageError`` unless ``value`` is true or false (``no`` is neither, to Hydra)."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be true or false, got {value!r}")


def check_shape(name: str, value: object) -> None:
    """Raise ``UsageError`` unless ``value`` is a sequence of integers above zero."""
    sizes = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if sizes == [value] or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise UsageError(f"{name} must be a list of integers above zero, got {value!r}")


def check_size(name: str, value: object, n: int) -> int:
    """How many of ``n`` a count or a fraction below 1 asks for; both parts must keep at least one."""
    check_positive(name, value)
    assert isinstance(value, (int, float))
    taken = round(n * value) if value < 1 else int(value)
    if not 0 < taken < n:
        raise UsageError(
            f"{name}={value} takes {taken} of {n} examples and leaves {n - taken}; both need at least one"
        )
    return taken


def check_positive(name: str, value: object, *, integer: bool = False, zero: bool = False) -> None:
    """Raise ``UsageError`` unless ``value`` is a finite number above zero (or zero, with ``zero``)."""
    kinds = int if integer else (int, float)
    number = isinstance(value, kinds) and not isinstance(value, bool)
    if not number or not (0 <= value < float("inf")) or (value == 0 and not zero):  # type: ignore[operator]
        what = f"{'an integer' if integer else 'a number'} {'of at least' if zero else 'above'} zero"
        raise UsageError(f"{name} must be {what}, got {value!r}")
