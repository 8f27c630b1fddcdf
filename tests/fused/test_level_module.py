"""The level as a module: what it takes, copies, keeps and compiles."""

import copy
import shutil

import pytest
import torch
from torch import Tensor

from glow.bijections import (
    ActNorm,
    Affine,
    Composition,
    Repeated,
    Spline,
    record_scales,
)
from glow.errors import UsageError
from glow.flows import Glow, RealNVP
from glow.fused import FusedLevel, unfused

from .levels import CHANNELS, images, level, step


def test_a_second_derivative_is_refused() -> None:
    x = images().requires_grad_()
    (g,) = torch.autograd.grad(level()(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


@pytest.mark.parametrize("edit", ["in place", "through .data", "load_state_dict", "dtype"])
def test_the_kept_inverse_follows_the_weights(edit: str) -> None:
    made, z = level("affine bounded"), torch.randn(2, CHANNELS, 3, 2, dtype=torch.float64)
    with torch.inference_mode():
        made.inverse(z)
        before = made._inverse
        made.inverse(z)
        assert made._inverse is before, "the second call should have used the first one's inverse"
    with torch.no_grad():
        if edit == "in place":
            made.step.steps[1].upper.add_(0.1)
        elif edit == "through .data":
            made.step.steps[1].upper.data.add_(0.1)
        elif edit == "load_state_dict":
            made.load_state_dict(level("affine bounded").state_dict())
        else:
            made, z = made.float(), z.float()
        x, _ = made.inverse(z)
        torch.testing.assert_close(made(x)[0], z, rtol=1e-4, atol=1e-4)


def test_frozen_weights_after_inference_mode_still_differentiate() -> None:
    made, z = (
        level("affine bounded").requires_grad_(False),
        torch.randn(2, CHANNELS, 3, 2, dtype=torch.float64),
    )
    with torch.inference_mode():
        made.inverse(z)
    z.requires_grad_()
    made.inverse(z)[0].square().sum().backward()
    assert z.grad is not None


def test_a_copy_is_independent_and_the_same() -> None:
    made, x = level(), images()
    made.compile()  # what was compiled is not copied
    twin = copy.deepcopy(made)
    torch.testing.assert_close(twin(x)[0], made.eval()(x)[0])
    with torch.no_grad():
        twin.step.steps[0].shift += 1
    assert not torch.allclose(twin(x)[0], made(x)[0])


def test_a_level_refuses_what_it_cannot_compute() -> None:
    for other in (
        step(Affine(), swap=True),
        step(Affine("tanh")),
        step(Spline(3)),
        Composition([ActNorm(8)]),
    ):
        assert not FusedLevel.supports(other)
        with pytest.raises(UsageError, match="scale='sigmoid', or additive; not swapped"):
            FusedLevel([other])
    with pytest.raises(UsageError, match="one step or more, alike but for their parameters"):
        FusedLevel([step(Affine(min_scale=m)) for m in (0.1, 0.2)])
    with pytest.raises(UsageError, match="one step or more, alike but for their parameters, got 0"):
        FusedLevel([])


def test_it_is_repeated_with_the_same_parameters_by_the_same_names() -> None:
    made, x = level(), images()
    slow = Repeated([step(Affine()) for _ in range(3)]).double()
    slow.load_state_dict(made.state_dict())
    with unfused(made):
        for a, b in zip(made(x), slow(x), strict=True):
            assert torch.equal(a, b)
    for a, b in zip(made(x), slow(x), strict=True):
        torch.testing.assert_close(a, b)


def test_unstacked_steps_share_the_parameters() -> None:
    made = level(depth=2)
    made.unstack()[1].steps[0].shift.data.fill_(7)
    shift = made.step.steps[0].shift
    assert (shift[1] == 7).all()
    assert (shift[0] != 7).all()


def test_the_scales_are_recorded_in_either_way() -> None:
    made, x = level("affine bounded"), images()
    with record_scales(made) as scales:
        made(x)
    with unfused(made), record_scales(made) as expected:
        made(x)
    assert scales.smallest is not None
    assert 0.2 <= scales.smallest < scales.largest < 1
    torch.testing.assert_close(scales.smallest, expected.smallest)
    torch.testing.assert_close(scales.largest, expected.largest)
    with record_scales(level("additive")) as none:
        level("additive")(x)
    assert none.smallest is None


def test_an_unknown_way_to_recompute() -> None:
    with pytest.raises(
        UsageError, match="recompute='steps' is not one of none, step, reversible; did you mean 'step'"
    ):
        level(recompute="steps")


@pytest.mark.slow
def test_a_compiled_flow_gives_the_same_and_takes_any_batch() -> None:
    flow = Glow((1, 8, 8), depth=2, width=8, levels=1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    flow.initialized = True
    x, noise = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), torch.rand(6, 1, 8, 8)

    def step(n: int) -> list[Tensor]:
        flow.zero_grad()
        loss = flow.log_prob(x[:n], noise=noise[:n])
        loss.sum().backward()
        return [loss.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)]

    expected = {n: step(n) for n in (6, 5)}
    drawn = flow.sample(3, generator=torch.Generator().manual_seed(0))
    keys = flow.state_dict().keys()
    flow.compile()
    [compiled] = [m for m in flow.modules() if isinstance(m, FusedLevel)]
    flow.eval().log_prob(x[:2], noise=noise[:2])  # does not decide what is compiled
    flow.train()
    for n in (6, 5, 6):
        for a, b in zip(step(n), expected[n], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    again = flow.sample(3, generator=torch.Generator().manual_seed(0))
    assert (again.int() - drawn.int()).abs().max() <= 1
    assert flow.state_dict().keys() == keys
    assert {d: shape[0] for d, shape in compiled._sizes.items()} == {"forward": 6, "inverse": 3}
    with pytest.raises(UsageError, match="only a Glow"):
        RealNVP((2,)).compile()


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler")
@pytest.mark.parametrize("recompute", ["none", "reversible"])
def test_someone_s_own_compilation_of_a_whole_flow_gives_the_same(recompute: str) -> None:
    flow = Glow((1, 8, 8), depth=2, width=8, levels=2, recompute=recompute)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    flow.initialized = True
    x = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    compiled = torch.compile(flow)
    for n in (6, 3):
        noise = torch.rand(n, 1, 8, 8)
        found = []
        for f in (flow, compiled):
            flow.zero_grad()
            loss = f(x[:n], noise=noise)
            loss.mean().backward()
            found.append([loss.detach(), *(p.grad.clone() for p in flow.parameters() if p.grad is not None)])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert torch.isfinite(compiled(x)).all()
