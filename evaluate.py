"""Measure a trained flow: `python evaluate.py --help`."""

from typing import Any

from glow.commands.main import main


def evaluate(cfg: Any) -> None:
    """Import what measures when there is something to measure: it takes seconds, which `--help` and a typo need not wait."""
    from glow.commands.evaluate import evaluate

    evaluate(cfg)


if __name__ == "__main__":
    main(evaluate, "evaluate")
