"""Every bijection on a GPU against the CPU in float64."""

import copy

import pytest
import torch
from test_every_bijection import CASES, Case, inputs, made
from torch import Tensor

pytestmark = pytest.mark.gpu


def computed(bijection: torch.nn.Module, x: Tensor, context: Tensor | None) -> list[Tensor]:
    """Both directions, and the gradients of the image and the log-det."""
    x.requires_grad_()
    z, log_det = bijection(x, context)
    (z.square().sum() + log_det.sum()).backward()
    gradients = [p.grad for p in (x, *bijection.parameters()) if p.grad is not None]
    with torch.no_grad():
        back, log_det_back = bijection.inverse(z, context)
    return [t.detach().cpu().double() for t in (z, log_det, back, log_det_back, *gradients)]


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-8), (torch.float32, 2e-3)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_equals_the_cpu_in_float64(
    case: Case, dtype: torch.dtype, error: float, device: torch.device
) -> None:
    if case.grey and dtype == torch.float32:
        pytest.skip("rounding takes a value at the edge of a grey level to the next one")
    reference = made(case)
    x, context = inputs(case, 5)
    there = copy.deepcopy(reference).to(device, dtype)
    expected = computed(reference, x.clone(), context)
    found = computed(there, x.to(device, dtype), None if context is None else context.to(device, dtype))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= error * (1 + b.norm())
