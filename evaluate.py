"""Measure a trained flow: `python evaluate.py --help`."""

from glow.commands.cli import main
from glow.commands.evaluate import evaluate

if __name__ == "__main__":
    main(evaluate, "evaluate")
