"""Draw from a trained flow: `python sample.py --help`."""

from glow.commands.main import main

if __name__ == "__main__":
    main("glow.commands.sample:sample", "sample")
