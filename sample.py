"""Draw from a trained flow: `python sample.py --help`."""

from typing import Any

from glow.commands.main import main


def sample(cfg: Any) -> None:
    """Import what draws when there is something to draw: it takes seconds, which `--help` and a typo need not wait."""
    from glow.commands.sample import sample

    sample(cfg)


if __name__ == "__main__":
    main(sample, "sample")
