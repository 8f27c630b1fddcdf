"""The view Fill in: completions of painted pictures."""

from collections.abc import Callable

from glow.demo.ask import Ask
from glow.demo.jobs import Event

HANDLERS: dict[str, Callable[[Ask], Event]] = {}
