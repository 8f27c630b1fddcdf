"""Measure a trained flow: `python evaluate.py --help`."""

from glow.commands.main import main

if __name__ == "__main__":
    main("glow.commands.evaluate:evaluate", "evaluate")
