#!/usr/bin/env python3
"""Speed and memory of Glow beside what a user would pick instead, and beside what the machine allows.

    python scripts/benchmark.py                                # small size, CPU, about six minutes
    python scripts/benchmark.py --device cuda --size paper     # L=3, K=32, width 512

Everything that is compared runs in turns, round after round in one process, so that a machine that is slow for a while is
slow for all; the tables show medians, with the fastest and slowest round. Contenders:

    ours             ``glow.flows.Glow`` as it trains; bf16 means bf16 coupling networks; step and reversible are
                     ``model.recompute``; compiled is ``compile=true``; unfused is the same flow module by module, which
                     is for reading and testing
    normflows        its multi-scale Glow, as in its CIFAR-10 example (``pip install -e '.[bench]'``)
    floor            the coupling networks alone: the same convolutions and ReLU, forward, backward and
                     optimizer, no flow. "channels_last" and "bf16" are the ways to make PyTorch run them faster

Writes benchmark.json and benchmark.png into ``--out``.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from contenders import SIZES, Contender, contenders, ours
from memory_use import activations, largest_batch

from glow.commands.allocator import keep_freed_memory
from glow.evaluation.bits import bits_per_dim
from glow.fused import unfused
from glow.fused.products import has_fast_kernels


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def in_turns(
    functions: dict[str, Callable[[], Any]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every round of every function, after two rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for r in range(rounds + 2):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if r >= 2:
                times[name].append(time.perf_counter() - start)
    return times


def arithmetic_peak(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a large matrix product; of a small one where the dtype is emulated, hundreds of times slower.

    As a product and as a 1x1 convolution, the better of the two: libraries differ by more than a factor of two.
    """
    peak = {}
    for dtype in (torch.float32, torch.bfloat16):
        emulated = device.type == "cpu" and not has_fast_kernels(dtype)
        n = 8192 if device.type == "cuda" else 256 if emulated else 2048
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        kernel, image = a.view(n, n, 1, 1), b.view(1, n, n, 1)
        ways = {
            "product": lambda a=a, b=b: a @ b,
            "convolution": lambda kernel=kernel, image=image: torch.conv2d(image, kernel),
        }
        best = min(map(min, in_turns(ways, 5, device).values()))
        peak[str(dtype).removeprefix("torch.")] = 2 * n**3 / best / 1e9
    return peak


def precision(size: dict[str, Any], device: torch.device) -> dict[str, float]:
    """Bits/dim by which an image's log-prob differs from the unfused float64 flow's, and the round-trip error."""
    contender = ours(size, torch.device("cpu"))
    flow = contender.model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in flow.named_parameters():
            if "network.4.weight" in name:  # the couplings start as the identity
                p.normal_(0, 0.02, generator=generator)
    x = torch.randint(256, (size["batch"], *size["image"]), generator=generator, dtype=torch.uint8)
    noise = torch.rand(x.shape, generator=generator)
    with torch.no_grad(), unfused(flow.double()):
        expected = bits_per_dim(flow.eval().log_prob(x, noise=noise.double()), size["image"])
    flow.float().to(device)
    found = {}
    with torch.no_grad():
        for name, low in (("float32", False), ("bf16", True)):
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                bpd = bits_per_dim(flow.log_prob(x.to(device), noise=noise.to(device)), size["image"])
                values = (noise.to(device) - 0.5) * 0.9
                z, _ = flow.bijection(values, None)
                back, _ = flow.bijection.inverse(z, None)
            found[f"log-prob difference, {name} (bits/dim)"] = (
                (bpd.double().cpu() - expected).abs().max().item()
            )
            found[f"round-trip error, {name}"] = (back - values).abs().max().item()
    return found


def startup() -> float:
    """Seconds from ``python train.py`` to the end of the first training step, on the embedded digits."""
    code = (
        "import os; from glow.commands.main import main; from glow.training import MaximumLikelihood;"
        "MaximumLikelihood.on_train_batch_end = lambda *a: os._exit(0); main('glow.commands.train:train', 'train')"
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", code, f"output_dir={folder}"], check=True, stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        return time.perf_counter() - start


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Markdown, aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for i, row in enumerate([head, *rows]):
        print("| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |")
        if i == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print(flush=True)


def plot(result: dict[str, Any], path: Path) -> None:
    """Speed as bars, memory as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = [*result["speed"], *(["memory"] if result["memory"] else [])]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 4.2), squeeze=False, layout="constrained"
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        if panel == "memory":
            for name, cases in result["memory"].items():
                depths = {int(case[2:]): m["peak"] for case, m in cases.items() if case.startswith("K=")}
                axis.plot(depths.keys(), depths.values(), marker="o", label=name)
            axis.set(
                title="activations of a training step",
                xlabel="K, steps per level",
                ylabel="MB per image at most",
                yscale="log",
            )
            axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        else:
            rows = result["speed"][panel]
            colours = ["C7" if "floor" in n else "C1" if "normflows" in n else "C0" for n in rows]
            axis.barh(list(rows), [r["images/s"] for r in rows.values()], color=colours)
            axis.invert_yaxis()
            axis.set(title=panel, xlabel="images/s")
    figure.suptitle(f"{result['size']} size on {result['device']}")
    figure.savefig(path, dpi=90)


SECTIONS = ("train", "log-prob", "sample", "memory", "batch", "precision", "startup")


def arguments() -> argparse.Namespace:
    def positive(text: str) -> int:
        if not text.isdigit() or int(text) == 0:
            raise argparse.ArgumentTypeError(f"must be a whole number above zero, got {text!r}")
        return int(text)

    def words(text: str) -> list[str]:
        return [word.strip() for word in text.split(",") if word.strip()]

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    parser.add_argument("--size", choices=SIZES, default="small",
                        help="small: L=3 K=8 width 128; paper: L=3 K=32 width 512; tiny: for tests")  # fmt: skip
    parser.add_argument("--batch", type=positive, help="images per batch, instead of the size's own")
    parser.add_argument("--rounds", type=positive, default=10, help="timed rounds (default 10)")
    parser.add_argument(
        "--threads", type=positive, default=min(2, os.cpu_count() or 1), help="CPU threads (default 2)"
    )
    parser.add_argument("--compiled", action="store_true", help="also ours compiled; compiling takes minutes")
    parser.add_argument(
        "--only", type=words, help="only contenders with one of these comma-separated words in their name"
    )
    parser.add_argument(
        "--skip", type=words, default=[], help=f"comma-separated sections: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark"), help="folder of the results")
    args = parser.parse_args()
    for section in args.skip:
        if section not in SECTIONS:
            parser.error(f"argument --skip: {section!r} is not one of {', '.join(SECTIONS)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: there is no CUDA device here")
    names = contenders({}, torch.device("cpu"), args.compiled)
    if args.only is not None and not any(word in name for name in names for word in args.only):
        parser.error(
            f"argument --only: no contender has {' or '.join(args.only)} in its name: {', '.join(names)}"
        )
    return args


def main() -> None:
    args = arguments()
    device, size = torch.device(args.device), dict(SIZES[args.size])
    size["batch"] = args.batch or size["batch"]
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False  # float32 is IEEE for all, as in train.py
    keep_freed_memory()  # as train.py does; all contenders profit
    card = torch.cuda.get_device_name() if device.type == "cuda" else f"{args.threads} cores of {cpu_name()}"
    result: dict[str, Any] = {
        "device": card, "size": args.size, **size, "torch": torch.__version__, "python": platform.python_version(),
        "speed": {}, "memory": {},
    }  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        (args.out / "benchmark.json").write_text(json.dumps(result, indent=1) + "\n")

    print(f"{args.size}: {size['image']}, L={size['levels']}, K={size['depth']}, width {size['width']}, "
          f"batch {size['batch']}; {card}, torch {torch.__version__}")  # fmt: skip
    result["peak GFLOP/s"] = arithmetic_peak(device)
    peaks = ", ".join(f"{v:,.0f} GFLOP/s {k}" for k, v in result["peak GFLOP/s"].items())
    print(f"large matrix product: {peaks}\n", flush=True)
    names = time_all(args, size, device, result, save)
    if "memory" not in args.skip:
        measure_memory(args, size, device, result, names)
        save()
    if "batch" not in args.skip and device.type == "cuda":
        modes = ("none", "step", "reversible")
        result["largest batch"] = {
            mode: largest_batch(size, device, low=True, recompute=mode) for mode in modes
        }
        print("largest batch, bf16:", result["largest batch"], "\n", flush=True)
    if "precision" not in args.skip:
        result["precision"] = precision(size, device)
        for name, value in result["precision"].items():
            print(f"{name}: {value:.2g}")
    if "startup" not in args.skip:
        result["startup"] = sorted(startup() for _ in range(3))[1]
        print(f"start-up to the end of the first step: {result['startup']:.1f} s")
    save()
    if result["speed"] or result["memory"]:
        plot(result, args.out / "benchmark.png")
    print(f"written: {args.out}")


def time_all(
    args: argparse.Namespace,
    size: dict[str, Any],
    device: torch.device,
    result: dict[str, Any],
    save: Callable[[], None],
) -> list[str]:
    """Fill in ``result["speed"]``; the names of the contenders that could be made."""
    made: dict[str, Contender] = {}
    for name, make in contenders(size, device, args.compiled).items():
        if args.only is not None and not any(word in name for word in args.only):
            continue
        try:
            made[name] = make()
            made[name].run("train", device)
        except (ImportError, torch.OutOfMemoryError) as error:
            made.pop(name, None)
            print(f"left out: {name} ({type(error).__name__}: {str(error)[:100]})")
    result["parameters"] = {name: sum(p.numel() for p in c.model.parameters()) for name, c in made.items()}
    for what in ("train", "log-prob", "sample"):
        functions = {
            name: (lambda c=c, what=what: c.run(what, device))
            for name, c in made.items()
            if what == "train" or not name.endswith(("step", "reversible"))  # which differ in training only
        }
        if what in args.skip or not functions:
            continue
        times = in_turns(functions, args.rounds, device)
        first = next(iter(times))
        rows, result["speed"][what] = [], {}
        for name, seconds in times.items():
            median = statistics.median(seconds)
            speed, over = size["batch"] / median, median / statistics.median(times[first])
            result["speed"][what][name] = {"images/s": speed, "seconds": seconds, f"time / {first}": over}
            low, high = 1e3 * min(seconds), 1e3 * max(seconds)
            rows.append(
                [name, f"{speed:,.1f}", f"{over:.2f}", f"{1e3 * median:,.1f}", f"{low:,.1f} - {high:,.1f}"]
            )
        print_table([what, "images/s", f"time / {first}", "ms", "min - max"], rows)
        save()
    return list(made)


def measure_memory(
    args: argparse.Namespace,
    size: dict[str, Any],
    device: torch.device,
    result: dict[str, Any],
    names: list[str],
) -> None:
    """Fill in ``result["memory"]``: by depth at the size's image, and by image size at the least depth."""
    depths = [2, 4] if args.size == "tiny" else [8, 16, 32]
    cases = {f"K={k}": {**size, "depth": k} for k in depths}
    for side in (2 * size["image"][1], 4 * size["image"][1]):
        cases[f"{side}x{side}"] = {**size, "depth": depths[0], "image": (3, side, side)}
    rows = []
    for name in [n for n in names if "floor" not in n and "compiled" not in n and n != "normflows bf16"]:
        try:
            table = {case: activations(name, changed, device) for case, changed in cases.items()}
        except torch.OutOfMemoryError:
            print(f"left out: memory of {name}, which does not fit")
            continue
        result["memory"][name] = table
        ratio = table[f"K={depths[-1]}"]["peak"] / table[f"K={depths[0]}"]["peak"]
        rows.append([name, *(f"{m['peak']:,.2f} ({m['kept']:,.2f})" for m in table.values()), f"{ratio:.2f}"])
    head = "MB of activations per image: peak (kept by autograd)"
    print_table([head, *cases, f"K={depths[-1]} / K={depths[0]}"], rows)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
