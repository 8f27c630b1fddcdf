"""Trained weights that come with the project.

Each is a file ``NAME.safetensors`` in this folder, with a card ``NAME.md`` (data, command, time, bits/dim, licences) and 64
draws ``NAME.png`` beside it. ``scripts/ship.py`` makes the three from a run.
"""

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def shipped() -> dict[str, Path]:
    """The files by the names that ``ckpt=`` and ``glow.load`` take."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.safetensors"))}


def is_shipped(path: Path) -> bool:
    """Whether a file lies in this folder, where nothing is drawn or measured into."""
    return path.resolve().parent == FOLDER.resolve()


def card(path: Path) -> dict[str, Any]:
    """The front matter of the card beside a file of weights."""
    _, front, _ = path.with_suffix(".md").read_text().split("---\n", 2)
    return yaml.safe_load(front)


__all__ = ["FOLDER", "card", "is_shipped", "shipped"]
