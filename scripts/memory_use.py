"""How much memory a contender of ``scripts/benchmark.py`` takes."""

from typing import Any

import torch
from contenders import Contender, contenders, ours
from torch import Tensor


def peak_memory(contender: Contender, device: torch.device) -> dict[str, float]:
    """Bytes of a training step beyond parameters, gradients and optimizer state: at most at once, and kept by autograd."""
    contender.run("train", device)  # makes the optimizer's state
    parameters = list(contender.model.parameters())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    known = {t.untyped_storage().data_ptr() for t in parameters}
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        contender.run("train", device)
        highest = torch.cuda.max_memory_allocated() - before
    else:  # the process's size says little: the allocator keeps freed pages
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            contender.run("train", device)
        now = highest = 0
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                now += event.nbytes()
                highest = max(highest, now)
    with contender.context(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        contender.model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=contender.low):
            loss = contender.loss()
    del loss
    return {"peak": highest, "kept": sum(kept.values())}


def activations(name: str, size: dict[str, Any], device: torch.device) -> dict[str, float]:
    """MB per image of a training step: what grows with the batch, so that no copy of a weight counts.

    The batches are large enough that the most memory is in use where activations are, not where weights are; what keeps
    little needs more images for that, and what keeps all of them would not fit into a CPU's memory with as many.
    """
    _, height, width = size["image"]
    recomputes = name.endswith(("step", "reversible"))
    most = 256 if device.type == "cuda" else 128 if recomputes else 32
    batch = min(most, max(2, most * 32 * 32 // (height * width)))
    sizes = ({**size, "batch": n} for n in (batch, 2 * batch))
    one, two = (peak_memory(contenders(s, device, False)[name](), device) for s in sizes)
    return {key: (two[key] - one[key]) / batch / 1e6 for key in one}


def largest_batch(size: dict[str, Any], device: torch.device, **options: Any) -> int:
    """The largest batch, to about 5 %, whose training step fits into the device's memory."""

    def fits(batch: int) -> bool:
        try:
            ours({**size, "batch": batch}, device, **options).run("train", device)
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()

    good = size["batch"]
    while fits(2 * good):
        good *= 2
    bad = 2 * good
    while bad - good > max(1, good // 20):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
