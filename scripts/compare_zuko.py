#!/usr/bin/env python3
"""Small flows of ours and of zuko, trained side by side on two moons: likelihood, time and speed of sampling.

    python scripts/compare_zuko.py                              # 3,000 steps of each, one seed
    python scripts/compare_zuko.py --seeds 3 --out zuko.json    # three seeds; everything also as JSON
    python scripts/compare_zuko.py --only nsf --steps 500       # only what has nsf in its name
    python scripts/compare_zuko.py --only ffjord --steps 300    # equations cost more
    python scripts/compare_zuko.py --only residual              # needs normflows

All are trained alike: 10,000 points (noise 0.05), the same batches of 256 in the same order, Adam at 1e-3, six
transforms with hidden layers (64, 64), splines of 8 bins. A seed decides the weights and the batches; the
points stay the same. They differ in what either library makes of the same idea:

    realnvp    affine couplings. zuko's class is ``NICE``, which is affine and not additive by default.
    nsf        spline couplings. zuko's is ``NICE`` with splines: its ``NSF(passes=2)``, the coupling that its
               documentation names, is in two dimensions its autoregressive ``NSF``, and moves both of them.
    nsf-ar     autoregressive splines. Both of ours begin with an ActNorm and bend [-3, 3]; zuko's bend [-5, 5].
    maf        affine autoregressive maps.
    ffjord     one equation with a network of hidden layers (64, 64), the trace exact, to a relative tolerance of 1e-5: time
               gates ours and is an input of zuko's, which solves once more backwards for the gradient.
    residual   six blocks of constant 0.97, the log-determinants exact. zuko has none: the other one is normflows's (``pip
               install -e '.[bench]'``), with power iteration and LipSwish; ours begins each block with an ActNorm.

Our autoregressive maps start at the identity, the others of both as torch initializes them. Scales are bounded
differently, too. Parameters are counted with the masked ones. The test likelihood is that of 10,000 points,
which are the same for all: differences are known better than the standard error, which is that of one model's mean.
Samples per second are from the median of five times 10,000 draws.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

from glow.data import Toy
from glow.flows import FFJORD, MAF, NSF, RealNVP, ResidualFlow

LAYERS, HIDDEN, BINS, BATCH, DRAWS = 6, 64, 8, 256, 10_000


class Normflows(nn.Module):
    """The residual flow of normflows, its log-determinants exact, behind what the loop needs of ours."""

    def __init__(self) -> None:
        import normflows

        super().__init__()
        self.update = normflows.utils.update_lipschitz
        sizes = [2, HIDDEN, HIDDEN, 2]
        blocks = [
            normflows.flows.Residual(normflows.nets.LipschitzMLP(sizes), brute_force=True)
            for _ in range(LAYERS)
        ]
        base = normflows.distributions.DiagGaussian(2, trainable=False)
        self.flow = normflows.NormalizingFlow(base, blocks)

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, 2) -> (B,), nats."""
        if self.training:
            self.update(self.flow, 5)  # steps of power iteration
        return self.flow.log_prob(x)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, 2)."""
        return self.flow.sample(n)[0]

    def initialize(self, x: Tensor) -> None:
        """Nothing depends on data."""


class Zuko(nn.Module):
    """A flow of zuko behind what the loop needs of ours."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        """(B, 2) -> (B,), nats."""
        return self.flow().log_prob(x)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """(n, 2)."""
        return self.flow().sample((n,))

    def initialize(self, x: Tensor) -> None:
        """Nothing depends on data."""


def contenders() -> dict[str, Callable[[], Any]]:
    """How each model is made, by name; raises ImportError without zuko."""
    from zuko import flows
    from zuko.transforms import MonotonicRQSTransform

    size = {"layers": LAYERS, "hidden": HIDDEN, "hidden_layers": 2}
    common = {"features": 2, "transforms": LAYERS, "hidden_features": (HIDDEN, HIDDEN)}
    splines = {"univariate": MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    return {
        "ours realnvp": lambda: RealNVP([2], **size),
        "zuko realnvp": lambda: Zuko(flows.NICE(**common)),
        "ours nsf": lambda: NSF([2], bins=BINS, **size),
        "zuko nsf": lambda: Zuko(flows.NICE(**common, **splines)),
        "ours nsf-ar": lambda: NSF([2], bins=BINS, autoregressive=True, **size),
        "zuko nsf-ar": lambda: Zuko(flows.NSF(**common, bins=BINS)),
        "ours maf": lambda: MAF([2], **size),
        "zuko maf": lambda: Zuko(flows.MAF(**common)),
        "ours ffjord": lambda: FFJORD([2], hidden=HIDDEN, hidden_layers=2),
        "zuko ffjord": lambda: Zuko(flows.CNF(2, hidden_features=(HIDDEN, HIDDEN))),
        "ours residual": lambda: ResidualFlow([2], **size),
        "normflows residual": Normflows,
    }


def two_moons() -> tuple[Tensor, Tensor]:
    """Training and test points, float32 (10000, 2) each."""
    data = Toy(
        kind="two_moons", noise=0.05, name="two_moons", shape=[2], batch_size=BATCH, train_size=10_000,
        val_size=1_000, test_size=10_000, seed=0,
    )  # fmt: skip
    data.setup("fit")
    data.setup("test")
    return data.arrays("train")[0], data.arrays("test")[0]


def batches(x: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
    """``steps`` batches (256, 2), shuffled anew every epoch, whose incomplete last one is left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(len(x), generator=generator).split(BATCH):
            if steps == 0:
                return
            if len(chosen) == BATCH:
                yield x[chosen]
                steps -= 1


def run(make: Callable[[], Any], train: Tensor, test: Tensor, seed: int, steps: int) -> dict[str, Any]:
    """Train and test one model once; nats, seconds, draws per second."""
    torch.manual_seed(seed)
    flow = make()
    flow.initialize(next(batches(train, 1, seed)))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    flow.train()
    start = time.perf_counter()
    for x in batches(train, steps, seed):
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    flow.eval()
    with torch.no_grad():
        nll = -flow.log_prob(test)
    drawing = []
    for _ in range(5):
        start = time.perf_counter()
        flow.sample(DRAWS)
        drawing.append(time.perf_counter() - start)
    return {
        "seed": seed,
        "parameters": sum(p.numel() for p in flow.parameters()),
        "train_seconds": seconds,
        "test_nll": nll.mean().item(),
        "test_nll_error": (nll.std() / len(nll) ** 0.5).item(),
        "samples_per_second": DRAWS / median(drawing),
    }


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """One row per model, means over its seeds."""
    lines = [
        "| model | parameters | train s | test NLL (nats) | min to max | standard error | samples/s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, of in runs.items():
        seconds, nll, error, speed = (
            [r[key] for r in of]
            for key in ("train_seconds", "test_nll", "test_nll_error", "samples_per_second")
        )
        lines.append(
            f"| {name} | {of[0]['parameters']:,} | {mean(seconds):.1f} | {mean(nll):.4f} "
            f"| {min(nll):.4f} to {max(nll):.4f} | {mean(error):.4f} | {mean(speed):,.0f} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="seeds 0, 1, ... for each (default 1)")
    parser.add_argument("--steps", type=int, default=3_000, help="of training for each (default 3000)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument(
        "--only",
        type=lambda s: s.split(","),
        default=["realnvp", "nsf", "maf"],
        help="only models with one of these comma-separated words in their name (default: all but ffjord, which takes an hour, and residual)",
    )
    parser.add_argument("--out", type=Path, help="file for all figures, as JSON")
    args = parser.parse_args()
    for name in ("seeds", "steps", "threads"):
        if getattr(args, name) <= 0:
            parser.error(f"argument --{name}: must be above zero, got {getattr(args, name)}")
    return args


def main() -> int:
    """Train all models with every seed, in turns, and print the table."""
    args = arguments()
    try:
        import zuko

        models = contenders()
    except ImportError as error:
        sys.exit(f"zuko is needed: make install brings it ({error})")
    names = [name for name in models if any(word in name for word in args.only)]
    if not names:
        sys.exit(f"--only: no model has {' or '.join(args.only)} in its name: {', '.join(models)}")
    torch.set_num_threads(args.threads)
    train, test = two_moons()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(args.seeds):
        for name in names:
            print(f"seed {seed}: {name}", file=sys.stderr, flush=True)
            try:
                runs[name].append(run(models[name], train, test, seed, args.steps))
            except ImportError as error:
                sys.exit(f"{name} needs pip install -e '.[bench]' ({error})")
    print(table(runs))
    if args.out:
        metadata = {
            "steps": args.steps,
            "threads": args.threads,
            "torch": torch.__version__,
            "zuko": zuko.__version__,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**metadata, "models": runs}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
