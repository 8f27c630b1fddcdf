"""The view In the plane: flows of points."""

from collections.abc import Callable

from glow.demo.ask import Ask
from glow.demo.jobs import Event

HANDLERS: dict[str, Callable[[Ask], Event]] = {}
