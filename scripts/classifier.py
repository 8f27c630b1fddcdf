#!/usr/bin/env python3
"""Train the classifier of grey 28x28 images whose features ``evaluate.py quality=true`` measures samples by.

    python scripts/classifier.py fashion_mnist --root DIR      # two minutes on two cores

Writes glow/evaluation/classifiers/NAME.safetensors (float16) and prints the accuracy on test images.
"""

import argparse
import time

import torch
from torch.nn import functional as F

from glow.commands.build import make
from glow.commands.main import compose
from glow.evaluation.classifier import FOLDER, Classifier
from glow.evaluation.features import FeatureNetwork, agreement, features_of


def augmented(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images shifted by up to two pixels, each its own way."""
    padded = F.pad(x, (2, 2, 2, 2))
    windows = padded.unfold(2, x.shape[2], 1).unfold(3, x.shape[3], 1)  # (N, C, 5, 5, H, W)
    i, j = torch.randint(5, (2, len(x)), generator=generator)
    return windows[torch.arange(len(x)), :, i, j]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="an option of conf/dataset with grey images and labels")
    parser.add_argument("--root", help="dataset.root")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    cfg = compose("train", [f"dataset={args.name}", *([f"dataset.root={args.root}"] if args.root else [])])
    data = make("dataset", cfg.dataset)
    data.prepare_data()
    train, test = data.load("train"), data.load("test")
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Classifier(int(train.y.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    start, done, shown = time.monotonic(), 0.0, 0.0
    while done < 1:
        for i in torch.randperm(len(train.x), generator=generator).split(args.batch):
            done = (time.monotonic() - start) / (60 * args.minutes)
            if done >= 1:
                break
            optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, 20 * done) * (1 - done)
            loss = F.cross_entropy(
                model(augmented(train.x[i], generator))[1], train.y[i], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if done - shown > 0.1:
                shown = done
                print(f"{done:.0%}: loss {loss.item():.3f}", flush=True)
    file = FOLDER / f"{args.name}.safetensors"
    FOLDER.mkdir(exist_ok=True)
    model.eval().save(file)
    _, logits = features_of(FeatureNetwork(args.name, model), test.x, 256, "test")
    accuracy = agreement(logits, test.y)
    print(f"{file}: right in {accuracy:.2%} of {len(test.x):,} test images, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
