#!/usr/bin/env python3
"""What a run would take on 1 to 512 GPUs: hours, GPU-hours, memory and checkpoints, from images/s measured on one GPU.

    python scripts/estimate.py --images-per-s 1379 dataset=cifar10 model.recompute=step trainer.precision=bf16-mixed

An estimate, not a measurement. The configuration is composed as train.py does it. Where the figures come from:

    compute     F + b (1 / images/s - F / B) seconds for the b images of a GPU; B, --measured-batch, is the batch that images/s was
                measured with, F, --fixed-ms, what a step takes however few the images (launching kernels)
    all-reduce  2 (n-1)/n x bytes of the float32 gradients / bandwidth + 2 (n-1) x latency: a ring of n GPUs; bandwidth is that
                inside a node if the n GPUs are in one, else the smaller of it and that of a node's network
    exposed     max(0, all-reduce - overlap x 2/3 compute): the backward pass takes two thirds of a step, and DDP may hide the
                all-reduce behind the share --overlap of it. The default, 0, hides nothing
    step        compute + exposed
    hours       steps x step. Validation, checkpoints, loading and the slowest GPU of many are not in it
    memory      weights, gradients, DDP's copy of the gradients (n > 1), optimizer, averaged weights, and activations per image, which are
                measured here on the CPU (or --activations-mb): the difference between two batches, as in docs/performance.md
    checkpoint  weights, averaged weights, optimizer; four on the disk at most: last, previous, best and the one being written

The global batch, dataset.batch_size, is divided by n; with --per-gpu it is n times that many images, in fewer steps (with another
learning rate, which nobody has looked for).
"""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

TRAINING_IMAGES = {
    "digits": 1_293, "mnist": 55_000, "fashion_mnist": 55_000, "cifar10": 45_000, "cifar100": 45_000, "svhn": 68_257,
    "celeba": 162_770, "imagenet32": 1_271_167, "imagenet64": 1_271_167,
}  # fmt: skip
CHECKPOINTS = 4
GPUS = tuple(2**k for k in range(10))


def all_reduce(n: int, size: float, bandwidth: float, latency: float) -> float:
    """Seconds that a ring of ``n`` takes to sum ``size`` bytes, at ``bandwidth`` bytes/s and ``latency`` s a hop."""
    return 2 * (n - 1) / n * size / bandwidth + 2 * (n - 1) * latency


def compute(images: float, images_per_s: float, fixed: float = 0.0, measured: float = 1.0) -> float:
    """Seconds of a step of so many images on one GPU, of which ``fixed`` do not depend on their number."""
    return fixed + images * (1 / images_per_s - fixed / measured)


def exposed(reduce: float, step: float, overlap: float) -> float:
    """Seconds of the all-reduce that are not hidden behind the backward pass."""
    return max(0.0, reduce - overlap * 2 / 3 * step)


def measure(cfg: "DictConfig", activations_mb: float | None) -> dict[str, float]:
    """Bytes of weights, optimizer state, averaged weights and, per image, activations of a training step."""
    import torch
    from contenders import Contender
    from memory_use import peak_memory

    from glow.commands.build import make, make_model
    from glow.training.muon import optimizer_of

    shape, levels = cfg.dataset.shape, cfg.dataset.grey_levels
    flow = make_model(cfg.model)
    optimizer = optimizer_of(flow, make("optimizer", cfg.optimizer))

    def peak(n: int) -> float:
        x = torch.randint(levels, (n, *shape), dtype=torch.uint8)
        y = torch.zeros(n, dtype=torch.long) if flow.classes else None
        if not flow.initialized:
            flow.initialize(x, y)
        contender = Contender(
            flow,
            lambda: -flow.log_prob(x, y).mean(),
            lambda: None,
            low=cfg.trainer.precision != "32-true",
            optimizer=optimizer,
        )
        return peak_memory(contender, torch.device("cpu"))["peak"]

    batch = max(2, 16 * 32 * 32 // (shape[1] * shape[2]))
    small = peak(batch if activations_mb is None else 1)  # makes the optimizer's state, too
    activations = (peak(2 * batch) - small) / batch if activations_mb is None else activations_mb * 1e6
    weights = sum(p.numel() * p.element_size() for p in flow.parameters())
    state = sum(
        t.numel() * t.element_size()
        for s in optimizer.state.values()
        for t in s.values()
        if torch.is_tensor(t)
    )
    averaged = weights if cfg.callbacks.get("ema") is not None else 0
    return {"weights": weights, "optimizer": state, "averaged": averaged, "activations": activations}  # fmt: skip


def row(n: int, cfg: "DictConfig", size: dict[str, float], args: argparse.Namespace) -> list[str]:
    """What ``n`` GPUs take."""
    batch = args.per_gpu * n if args.per_gpu else cfg.dataset.batch_size
    nodes = math.ceil(n / args.gpus_per_node)
    head = [str(n), str(nodes)]
    if batch % n:
        return [*head, f"{batch} does not divide", *[""] * 7]
    epochs, steps = cfg.trainer.max_epochs, cfg.trainer.max_steps
    if steps is None or steps < 0:
        steps = epochs * math.ceil(args.training_images / batch)
    elif args.per_gpu:  # as many images
        steps = math.ceil(steps * cfg.dataset.batch_size / batch)
    bandwidth = args.inside_gb_s if nodes == 1 else min(args.inside_gb_s, args.between_gb_s)
    computing = compute(batch // n, args.images_per_s, args.fixed_ms / 1e3, args.measured_batch)
    reducing = all_reduce(n, size["weights"], bandwidth * 1e9, args.latency_us / 1e6)
    step = computing + exposed(reducing, computing, args.overlap)
    hours = steps * step / 3600
    memory = size["weights"] * (2 if n == 1 else 3) + size["optimizer"] + size["averaged"]
    memory += size["activations"] * (batch // n)
    return [
        *head, str(batch // n), f"{steps:,}", f"{computing * 1e3:.1f}", f"{reducing * 1e3:.1f}", f"{batch / step:,.0f}",
        f"{hours:,.2f}", f"{hours * n:,.1f}", f"{memory / 1e9:.2f}",
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    def positive(text: str) -> float:
        value = float(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"must be above zero, got {text}")
        return value

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images-per-s", type=positive, required=True, help="training images a second, measured on one GPU")
    add(
        "--measured-batch", type=positive, default=256, help="the batch they were measured with (default 256)"
    )
    add("--fixed-ms", type=float, default=0.0, help="of a step, whatever its batch (default 0)")
    add("--per-gpu", type=int, help="images per GPU, instead of dataset.batch_size over all")
    add("--gpus-per-node", type=int, default=8, help="default 8")
    add(
        "--inside-gb-s",
        type=positive,
        default=450,
        help="GB/s between GPUs of a node (default 450: NVLink 4, nominal, one way)",
    )
    add(
        "--between-gb-s",
        type=positive,
        default=50,
        help="GB/s of a node's network (default 50: one 400 Gbit/s card, nominal)",
    )
    add("--latency-us", type=float, default=5.0, help="of a hop of the ring (default 5, an assumption)")
    add(
        "--overlap",
        type=float,
        default=0.0,
        help="0 to 1, the share of the backward pass that hides it (default 0)",
    )
    add(
        "--activations-mb",
        type=positive,
        help="per image, instead of measuring (docs/performance.md has some)",
    )
    add(
        "--training-images",
        type=int,
        help="of the dataset, where it is not one of " + ", ".join(TRAINING_IMAGES),
    )
    add("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py")
    args = parser.parse_intermixed_args()
    if not 0 <= args.overlap <= 1:
        parser.error(f"argument --overlap: must be from 0 to 1, got {args.overlap}")
    if args.fixed_ms / 1e3 > args.measured_batch / args.images_per_s:
        parser.error("argument --fixed-ms: is more than the measured step took")
    args.parser = parser
    return args


def main() -> None:
    args = arguments()
    from benchmark import print_table
    from omegaconf import OmegaConf

    from glow.commands.main import compose
    from glow.resilience.run_folder import option

    cfg = compose("train", args.overrides)
    OmegaConf.resolve(cfg)
    if len(cfg.dataset.get("shape", ())) != 3 or not cfg.dataset.grey_levels:
        args.parser.error("images only: dataset=cifar10, for example")
    args.training_images = args.training_images or TRAINING_IMAGES.get(option(cfg, "dataset"))
    if args.training_images is None:
        args.parser.error(f"argument --training-images: is needed for dataset={option(cfg, 'dataset')}")
    size = measure(cfg, args.activations_mb)
    kept = size["weights"] + size["averaged"] + size["optimizer"]
    print(
        f"{option(cfg, 'model')} on {option(cfg, 'dataset')}, {cfg.trainer.precision}: weights {size['weights'] / 1e6:,.1f} MB, "
        f"optimizer {size['optimizer'] / 1e6:,.1f} MB, activations {size['activations'] / 1e6:,.2f} MB per image, "
        f"a checkpoint {kept / 1e6:,.1f} MB, {CHECKPOINTS} at most: {CHECKPOINTS * kept / 1e6:,.1f} MB"
    )
    print(
        f"assumed: {args.images_per_s:,g} images/s on one GPU, {args.fixed_ms:g} ms of a step fixed; {args.inside_gb_s:g} GB/s inside a "
        f"node of {args.gpus_per_node}, {args.between_gb_s:g} GB/s between nodes, {args.latency_us:g} us a hop; "
        f"overlap {args.overlap:g}\n"
    )
    head = ["GPUs", "nodes", "images/GPU", "steps", "compute ms", "all-reduce ms", "images/s", "hours", "GPU-hours", "GB/GPU"]  # fmt: skip
    print_table(head, [row(n, cfg, size, args) for n in GPUS])


if __name__ == "__main__":
    main()
