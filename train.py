"""Train a normalizing flow: `python train.py --help`."""

from glow.commands.main import main

if __name__ == "__main__":
    main("glow.commands.train:train", "train")
