#!/usr/bin/env python3
"""What a configuration learns in a fixed time: test bits/dim on Fashion-MNIST after so many minutes of training.

    python scripts/yardstick.py --root ../shared/data                                   # the default recipe, 10 minutes
    python scripts/yardstick.py --root ../shared/data --seeds 3 "" "optimizer.lr=6e-3"  # two settings, three seeds each

Each argument is one setting: overrides of ``python train.py dataset=fashion_mnist``, separated by spaces. Everything is
measured on the whole test set of 10,000 images, with averaged weights, over the 784 real dimensions. There is no
validation: all 60,000 images but 64 are trained on. A difference under 0.1 needs three seeds. The lines are also
appended to ``--out``/yardstick.jsonl.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OWN = ("name", "output_dir", "fit.max_time", "trainer.max_time", "seed", "resume")
"""Settings that the yardstick decides."""


def run(setting: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train and test once; the figures of the run's results.json, or the error."""
    line = {"setting": setting, "seed": seed, "minutes": args.minutes}
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    limit = f"{timedelta(minutes=args.minutes).days:02d}:{time.strftime('%H:%M:%S', time.gmtime(60 * args.minutes))}"
    command = [
        sys.executable, "train.py", f"dataset={args.dataset}", f"dataset.root={args.root.resolve()}",
        "dataset.val_size=64", f"fit.max_time={limit}", "fit.max_epochs=100000", "trainer.limit_val_batches=0",
        "callbacks.best=null", "callbacks.pictures=null", "logger=csv", "resume=false", f"seed={seed}", f"name={name}",
        f"output_dir={args.out.resolve()}", *shlex.split(setting),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {**line, "error": (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}
    [results] = args.out.glob(f"{name}*/results.json")
    return {**line, **json.loads(results.read_text())}


def figures(line: dict[str, Any]) -> str:
    """The line that is printed for a run."""
    label = f"seed {line['seed']} | {line['setting'] or 'default'}"
    test = line.get("test") or {}
    if "error" in line or not test:
        return f"failed: {line.get('error', 'nothing was trained')} | {label}"
    value, raw = (
        f"{v:.4f}" if v is not None else "not finite"
        for v in (test.get("ema", test.get("raw")), test.get("raw"))
    )
    speed = f"{line['steps']:,} steps, {line['images_per_s'] or 0:.0f} images/s"
    return f"{value} bits/dim (raw weights {raw}), {speed}, {label}"


def arguments() -> argparse.Namespace:
    """Of the command line."""
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
        "--root",
        type=Path,
        default=Path("data"),
        help="where the data is, or is downloaded to (default data)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/yardstick"),
        help="folder of the runs (default outputs/yardstick)",
    )
    args = parser.parse_args()
    for name in ("minutes", "seeds", "threads"):
        if getattr(args, name) <= 0:
            parser.error(f"argument --{name}: must be above zero, got {getattr(args, name)}")
    for setting in args.settings:
        for word in shlex.split(setting):
            if word.partition("=")[0] in OWN:
                parser.error(f"{word}: the yardstick sets this itself")
    return args


def main() -> int:
    """Run every setting with every seed, in turns, and print a line for each; 1 if one failed."""
    args, failed = arguments(), 0
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for setting in args.settings:
            line = run(setting, seed, args)
            failed |= "error" in line
            with (args.out / "yardstick.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(figures(line), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
