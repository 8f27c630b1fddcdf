"""Draw from a trained flow: `python sample.py --help`."""

from glow.commands.main import main
from glow.commands.sample import sample

if __name__ == "__main__":
    main(sample, "sample")
