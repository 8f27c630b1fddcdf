"""Compress images with a trained flow: `python compress.py --help`."""

from glow.commands.main import main

if __name__ == "__main__":
    main("glow.commands.compress:compress", "compress")
