#!/usr/bin/env python3
"""What a configuration learns in a fixed time: test bits/dim on Fashion-MNIST after so many minutes of training.

    python scripts/yardstick.py --root ../shared/data                                   # the default recipe, 10 minutes
    python scripts/yardstick.py --root ../shared/data --seeds 3 "" "optimizer.lr=6e-3"  # two settings, three seeds each

Each argument is one setting: overrides of ``python train.py dataset=fashion_mnist``, separated by spaces. Everything is
measured on the whole test set of 10,000 images, with averaged weights, over the 784 real dimensions. There is no
validation: all 60,000 images but 64 are trained on. A difference under 0.1 needs three seeds. The lines are also
appended to ``--out``/yardstick.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(setting: str, seed: int, args: argparse.Namespace) -> dict[str, object]:
    """Train and test once; the figures of the run's results.json."""
    name = f"{args.name or 'run'}-{abs(hash((setting, seed, time.time()))) % 10**8:08d}"
    seconds = round(60 * args.minutes)
    command = [
        sys.executable, "train.py", f"dataset={args.dataset}", f"dataset.root={args.root}", "dataset.val_size=64",
        f"trainer.max_time=00:{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        "trainer.max_epochs=100000", "trainer.limit_val_batches=0", "callbacks.best=null", "callbacks.pictures=null",
        "logger=csv", "resume=false", f"seed={seed}", f"name={name}", f"output_dir={args.out}", *setting.split(),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    results = json.loads((ROOT / args.out / name / "results.json").read_text())
    return {"setting": setting, "seed": seed, "minutes": args.minutes, **results}


def main() -> None:
    """Run every setting with every seed, in turns, and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "settings", nargs="*", default=[""], help="overrides, quoted; an empty one is the default recipe"
    )
    parser.add_argument("--minutes", type=float, default=10, help="of training for each (default 10)")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... for each (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--dataset", default="fashion_mnist", help="default fashion_mnist")
    parser.add_argument(
        "--root", default="data", help="where the data is, or is downloaded to (default data)"
    )
    parser.add_argument(
        "--out", default="outputs/yardstick", help="folder of the runs (default outputs/yardstick)"
    )
    parser.add_argument("--name", help="prefix of the runs' names")
    args = parser.parse_args()
    for seed in range(args.seeds):
        for setting in args.settings:
            result = run(setting, seed, args)
            with (ROOT / args.out / "yardstick.jsonl").open("a") as file:
                file.write(json.dumps(result) + "\n")
            test = result["test"]
            figures = f"{test.get('ema', test['raw']):.4f} bits/dim (raw weights {test['raw']:.4f}), {result['steps']:,} steps"
            print(
                f"{figures}, {result['images_per_s']:.0f} images/s, seed {seed} | {setting or 'default'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
