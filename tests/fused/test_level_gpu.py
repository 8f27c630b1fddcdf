"""The level on a GPU against the CPU in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from glow.flows import Glow
from glow.fused import unfused


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestGPU:
    def flow(self, recompute: str = "none") -> Any:
        torch.manual_seed(0)
        made = Glow((3, 16, 16), depth=4, width=64, recompute=recompute)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        made.initialized = True
        return made.cuda()

    def step(self, flow: Any, x: Tensor, noise: Tensor, low: bool = False) -> list[Tensor]:
        flow.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=low):
            loss = flow.log_prob(x, noise=noise)
        loss.mean().backward()
        return [loss.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)]

    @pytest.mark.parametrize("recompute", ["none", "step", "reversible"])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_equals_the_cpu_in_float64_unfused(self, recompute: str, compiled: bool) -> None:
        flow = self.flow(recompute)
        x = torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8)
        noise = torch.rand(x.shape)
        reference = self.flow().cpu().double()
        with unfused(reference):
            expected = self.step(reference, x, noise.double())
        if compiled:
            flow.compile()
        for a, b in zip(self.step(flow, x.cuda(), noise.cuda()), expected, strict=True):
            assert (a.cpu().double() - b).norm() / b.norm() < 1e-3

    def test_bf16_is_close_and_samples_survive_a_round_trip(self) -> None:
        flow = self.flow()
        x = torch.randint(256, (16, 3, 16, 16), dtype=torch.uint8, device="cuda")
        noise = torch.rand(x.shape, device="cuda")
        exact, low = self.step(flow, x, noise), self.step(flow, x, noise, low=True)
        assert ((exact[0] - low[0]).abs() / (768 * 0.6931)).max() < 0.01
        flow.eval().compile()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            assert torch.equal(flow.decode(flow.encode(x)), x)
