"""The part ``speed`` of ``scripts/gpu_report.py``: images a second, memory, and where the time goes."""

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from benchmark import in_turns
from contenders import SIZES, Contender, contenders
from gpu_layers import report_layers
from memory_use import largest_batch

if TYPE_CHECKING:
    from gpu_report import Report


def timed(contender: Contender, what: str, report: "Report", images: int) -> dict[str, Any]:
    """Images a second, the median of some rounds, and the most memory at once."""
    on_gpu, rounds = report.device.type == "cuda", 1 if report.args.dry_run else 10
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(4):  # the fourth is captured, where there are graphs
        contender.run(what, report.device)
    seconds = in_turns({"": lambda: contender.run(what, report.device)}, rounds, report.device)[""]
    middle = statistics.median(seconds)
    memory = {"peak GB": torch.cuda.max_memory_allocated() / 1e9} if on_gpu else {}
    return {
        "images/s": images / middle,
        "ms": 1e3 * middle,
        "min - max": f"{1e3 * min(seconds):.1f} - {1e3 * max(seconds):.1f}",
        **memory,
    }


def speed(report: "Report") -> None:
    """Training, log-prob and sampling of both sizes beside the peers; layers; memory; where the time goes; compiled last."""
    sizes = (
        {"paper": SIZES["tiny"], "small": SIZES["tiny"]}
        if report.args.dry_run
        else {"paper": SIZES["paper"], "small": {**SIZES["small"], "batch": 256}}
    )
    torch.backends.cudnn.allow_tf32 = False  # float32 is IEEE for all, as in train.py
    plain = [
        n for n in contenders({}, report.device, False, graphs=True) if "unfused" not in n and n != "floor"
    ]
    later = [n for n in contenders({}, report.device, True, graphs=True) if "compiled" in n]
    for name in plain:
        measure_each(report, "paper", sizes["paper"], name)
    paper = sizes["paper"]
    report_layers(report, paper)
    for name in ("ours bf16", "ours bf16 graphed", "ours bf16 triton graphed"):
        report.row(
            f"kernels, paper, train, {name}",
            lambda name=name: kernels(
                contenders(paper, report.device, True, graphs=True)[name](), report.device
            ),
        )
    for mode in ("none", "step", "reversible"):
        report.row(
            f"largest batch, paper, bf16, {mode}", lambda mode=mode: {"images": largest(paper, report, mode)}
        )
    for name in plain:
        measure_each(report, "small", sizes["small"], name)
    for name in later:
        if report.args.dry_run:
            report.row(f"paper, {name}", lambda: {"left out": "compiling for a CPU takes minutes"})
        else:
            measure_each(report, "paper", paper, name)


def measure_each(report: "Report", size_name: str, size: dict[str, Any], name: str) -> None:
    """A row each for training, log-prob and sampling by one contender, which is made once."""
    made: list[Contender] = []
    for what in ("train", "log-prob", "sample"):
        if what != "train" and name.endswith(("step", "reversible")):
            continue  # which differ in training only

        def measure(what: str = what) -> dict[str, Any]:
            if not made:
                made.append(contenders(size, report.device, True, graphs=True)[name]())
            return timed(made[0], what, report, size["batch"])

        report.row(f"{size_name}, {what}, {name}", measure)
    made.clear()
    if report.device.type == "cuda":
        torch.cuda.empty_cache()


def largest(size: dict[str, Any], report: "Report", mode: str) -> int:
    """The largest batch that trains; at toy size on a CPU one step, since its memory has no end that is worth waiting for."""
    if report.device.type == "cuda":
        return largest_batch(size, report.device, low=True, recompute=mode)
    contenders({**size, "batch": 8}, report.device, False)[
        "ours bf16" + (f" {mode}" if mode != "none" else "")
    ]().run("train", report.device)
    return 8


def kernels(contender: Contender, device: torch.device) -> dict[str, Any]:
    """The share of the time that the GPU is busy, and the twenty kernels that take most of it, over three training steps."""
    for _ in range(5):
        contender.run("train", device)
    on_gpu = device.type == "cuda"
    activities = [
        torch.profiler.ProfilerActivity.CPU,
        *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else []),
    ]
    with torch.profiler.profile(activities=activities) as profile:
        start = time.perf_counter()
        for _ in range(3):
            contender.run("train", device)
        if on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    events = [
        e for e in profile.key_averages() if not on_gpu or e.device_type == torch.autograd.DeviceType.CUDA
    ]
    cost = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    calls = {e.key: e.count for e in events}
    top = sorted(cost, key=lambda k: -cost[k])[:20]
    return {
        "busy %": 1e-4 * sum(cost.values()) / seconds,
        "ms": 1e3 * seconds / 3,
        "kernels/step": sum(calls.values()) / 3,
        "top": [{"kernel": k[:120], "ms/step": cost[k] / 3e3, "calls/step": calls[k] / 3} for k in top],
    }
