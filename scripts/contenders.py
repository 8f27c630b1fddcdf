"""What ``scripts/benchmark.py`` compares: models with a loss and a sampler, made by name."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from glow.evaluation.bits import bits_per_dim
from glow.flows import Glow
from glow.fused import unfused
from glow.training.graphs import WholeStep
from glow.training.replay import Replayed, Replays, Rerun

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"image": (3, 8, 8), "levels": 2, "depth": 2, "width": 8, "batch": 4},
    "small": {"image": (3, 32, 32), "levels": 3, "depth": 8, "width": 128, "batch": 32},
    "paper": {"image": (3, 32, 32), "levels": 3, "depth": 32, "width": 512, "batch": 256},
}


@dataclass
class Contender:
    """Something to time: a model, its loss on a batch, and how it samples ``n`` images."""

    model: nn.Module
    loss: Callable[[], Tensor]
    sample: Callable[[], Any]
    low: bool = False  # under bf16 autocast
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    optimizer: torch.optim.Optimizer | None = None

    def run(self, what: str, device: torch.device) -> None:
        """Once: ``train`` step, ``log-prob`` or ``sample``."""
        with self.context(), contextlib.ExitStack() as stack:
            self.model.train(what == "train")
            if what != "train":
                stack.enter_context(torch.no_grad())
            with torch.autocast(device.type, torch.bfloat16, enabled=self.low):
                result = self.sample() if what == "sample" else self.loss()
            if what == "train":
                result.backward()
                if self.optimizer is None:
                    self.optimizer = torch.optim.Adamax(self.model.parameters(), lr=1e-4)
                self.optimizer.step()
                self.optimizer.zero_grad()


@dataclass
class Graphed(Contender):
    """A contender of ours whose work is replayed: as CUDA graphs, or done again on a CPU."""

    def __post_init__(self) -> None:
        self.works: dict[str, Callable[[], Any]] = {}

    def run(self, what: str, device: torch.device) -> None:
        self.model.train(what == "train")
        low = torch.autocast(device.type, torch.bfloat16, enabled=self.low)
        with low, torch.set_grad_enabled(what == "train"):
            if what not in self.works:
                self.works[what] = self.work(what, device)
            self.works[what]()

    def work(self, what: str, device: torch.device) -> Callable[[], Any]:
        model, backend = self.model, None if device.type == "cuda" else Rerun()
        if what == "log-prob":
            return Replays(lambda: (self.loss(),), backend)
        if what == "sample":
            generate, quantize = Replayed(model, backend).generate, model.dequantization.quantize
            return lambda: quantize(generate(model.sample_latents(self.sample())))
        optimizer = self.optimizer or torch.optim.Adamax(model.parameters(), lr=1e-4)
        whole = SimpleNamespace(parameters=model.parameters, loss=lambda batch, noise: self.loss()[None])
        step = WholeStep(whole, optimizer, on_nonfinite="stop")
        replays, batch = Replays(step, backend), torch.empty(1, device=device)
        return lambda: (step.set_rates(), replays(None, batch))


def graphed(contender: Contender, images: int = 0) -> Graphed:
    """The same, replayed; it samples ``images`` at once."""
    return Graphed(
        contender.model, contender.loss, lambda: images, contender.low, optimizer=contender.optimizer
    )


class Floor(nn.Module):
    """The coupling networks of a Glow on inputs of the right shapes, each fed by the one before."""

    def __init__(self, image: tuple[int, int, int], levels: int, depth: int, width: int) -> None:
        super().__init__()
        c, h, w = image
        self.shapes, nets = [], []
        for i in range(levels):
            c, h, w = 4 * c if i == 0 else 2 * c, h // 2, w // 2
            self.shapes.append((c // 2, h, w))
            nets.append(nn.Sequential(*(self.network(c // 2, width) for _ in range(depth))))
        self.nets = nn.ModuleList(nets)

    @staticmethod
    def network(c: int, width: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(c, width, 3, padding=1), nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1), nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * c, 3, padding=1),
        )  # fmt: skip

    def forward(self, inputs: list[Tensor]) -> Tensor:
        total = inputs[0].new_zeros(())
        for nets, x in zip(self.nets, inputs, strict=True):
            for net in nets:
                h = net(x)
                x = h[:, : x.shape[1]]
            total = total + h.float().sum()
        return total


def ours(
    size: dict[str, Any], device: torch.device, low: bool = False, compiled: bool = False, **options: Any
) -> Contender:
    x = torch.randint(256, (size["batch"], *size["image"]), dtype=torch.uint8, device=device)
    flow = Glow(size["image"], levels=size["levels"], depth=size["depth"], width=size["width"], **options)
    flow.to(device)
    flow.initialize(x[:64])
    if compiled:
        flow.compile()

    def loss() -> Tensor:
        return bits_per_dim(flow.log_prob(x), size["image"]).mean()

    return Contender(flow, loss, lambda: flow.sample(size["batch"]), low)


def ours_unfused(size: dict[str, Any], device: torch.device) -> Contender:
    contender = ours(size, device)
    contender.context = lambda: unfused(contender.model)
    return contender


def floor(
    size: dict[str, Any], device: torch.device, channels_last: bool = False, low: bool = False
) -> Contender:
    model = Floor(size["image"], size["levels"], size["depth"], size["width"]).to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    inputs = [torch.randn(size["batch"], *s, device=device).to(memory_format=layout) for s in model.shapes]
    return Contender(model, lambda: model(inputs), lambda: model(inputs), low)


def normflows(size: dict[str, Any], device: torch.device, low: bool = False) -> Contender:
    import normflows as nf

    c, h, w = size["image"]
    levels = size["levels"]
    q0, flows, merges = [], [], []
    for i in range(levels):  # the last level first
        blocks = [nf.flows.GlowBlock(c * 2 ** (levels + 1 - i), size["width"]) for _ in range(size["depth"])]
        flows.append([*blocks, nf.flows.Squeeze()])
        if i:
            merges.append(nf.flows.Merge())
        scale = 2 ** (levels - i)
        q0.append(nf.distributions.GlowBase((c * scale * (1 if i else 2), h // scale, w // scale)))
    model = nf.MultiscaleFlow(q0, flows, merges, nf.transforms.Logit(0.05), class_cond=False).to(device)
    x = torch.rand(size["batch"], c, h, w, device=device)
    with torch.no_grad():
        model.log_prob(x, None)  # the first batch initializes its ActNorms
    return Contender(model, lambda: -model.log_prob(x, None).mean(), lambda: model.sample(size["batch"]), low)


def contenders(
    size: dict[str, Any], device: torch.device, compiled: bool, graphs: bool = False
) -> dict[str, Callable[[], Contender]]:
    """By name; the first is what times are compared with. ``graphs`` asks for those of graphs on a CPU, too."""
    table: dict[str, Callable[[], Contender]] = {
        "floor": lambda: floor(size, device),
        "floor channels_last": lambda: floor(size, device, channels_last=True),
        "floor bf16 channels_last": lambda: floor(size, device, channels_last=True, low=True),
        "normflows": lambda: normflows(size, device),
        "normflows bf16": lambda: normflows(size, device, low=True),
        "ours unfused": lambda: ours_unfused(size, device),
        "ours": lambda: ours(size, device),
        "ours bf16": lambda: ours(size, device, low=True),
        "ours step": lambda: ours(size, device, recompute="step"),
        "ours reversible": lambda: ours(size, device, recompute="reversible"),
        "ours bf16 step": lambda: ours(size, device, low=True, recompute="step"),
        "ours bf16 reversible": lambda: ours(size, device, low=True, recompute="reversible"),
    }
    if device.type == "cuda" or graphs:
        table["ours graphed"] = lambda: graphed(ours(size, device), size["batch"])
        table["ours bf16 graphed"] = lambda: graphed(ours(size, device, low=True), size["batch"])
        triton = lambda **options: ours(size, device, low=True, kernels="triton", **options)  # noqa: E731
        table["ours bf16 triton"] = triton
        table["ours bf16 triton graphed"] = lambda: graphed(triton(), size["batch"])
    if compiled:
        table["ours compiled"] = lambda: ours(size, device, compiled=True)
        table["ours bf16 compiled"] = lambda: ours(size, device, low=True, compiled=True)
        if device.type == "cuda" or graphs:
            both = lambda: graphed(ours(size, device, low=True, compiled=True), size["batch"])  # noqa: E731
            table["ours bf16 compiled graphed"] = both
            table["ours bf16 triton compiled graphed"] = lambda: graphed(triton(compiled=True), size["batch"])
    return table
