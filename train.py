"""Train a normalizing flow: `python train.py --help`."""

from glow.commands.main import main
from glow.commands.train import train

if __name__ == "__main__":
    main(train, "train")
