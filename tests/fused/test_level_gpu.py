"""The level on a GPU against the CPU in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from glow.flows import Glow
from glow.fused import unfused

pytestmark = pytest.mark.gpu


def flow(device: torch.device, recompute: str = "none", kernels: str = "torch") -> Any:
    """On the CPU; smaller where the test is only tried out there."""
    torch.manual_seed(0)
    depth, width = (4, 64) if device.type == "cuda" else (2, 8)
    made = Glow((3, 16, 16), depth=depth, width=width, recompute=recompute, kernels=kernels)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    made.initialized = True
    return made


def step(flow: Any, x: Tensor, noise: Tensor, low: bool = False) -> list[Tensor]:
    flow.zero_grad()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
        loss = flow.log_prob(x, noise=noise)
    loss.mean().backward()
    return [loss.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)]


@pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_the_cpu_in_float64_unfused(
    recompute: str, compiled: bool, kernels: str, device: torch.device
) -> None:
    if compiled and device.type == "cpu":
        pytest.skip("compiling for a CPU takes minutes")
    made = flow(device, recompute, kernels).to(device)
    x = torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8)
    noise = torch.rand(x.shape)
    reference = flow(device).double()
    with unfused(reference):
        expected = step(reference, x, noise.double())
    if compiled:
        made.compile()
    for a, b in zip(step(made, x.to(device), noise.to(device)), expected, strict=True):
        assert (a.cpu().double() - b).norm() / b.norm() < 1e-3


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_bf16_is_close_and_samples_survive_a_round_trip(kernels: str, device: torch.device) -> None:
    made = flow(device, kernels=kernels).to(device)
    x = torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8, device=device)
    noise = torch.rand(x.shape, device=device)
    exact, low = step(made, x, noise), step(made, x, noise, low=True)
    assert ((exact[0] - low[0]).abs() / (768 * 0.6931)).max() < 0.01
    made.eval()
    if device.type == "cuda":
        made.compile()
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        assert torch.equal(made.decode(made.encode(x)), x)
