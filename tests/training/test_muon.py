"""Muon: orthogonal updates of matrices, and one state with the other optimizer."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from glow.errors import UsageError
from glow.flows import Glow
from glow.training.muon import Muon, matrices, orthogonalize

ADAMAX = partial(torch.optim.Adamax, lr=0.01)


@pytest.mark.parametrize("shape", [(8, 8), (4, 20), (20, 4), (3, 6, 5)])
def test_singular_values_become_about_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_stack_is_each_matrix_by_itself() -> None:
    stack = torch.randn(3, 4, 6) * torch.tensor([1.0, 100.0, 0.01])[:, None, None]
    torch.testing.assert_close(orthogonalize(stack), torch.stack([orthogonalize(m) for m in stack]))


def glow() -> Glow:
    torch.manual_seed(0)
    flow = Glow((1, 8, 8), 17, levels=2, depth=2, width=8, position=True)
    flow.initialize(torch.randint(17, (32, 1, 8, 8)))
    return flow


def muon(flow: nn.Module, lr: float = 0.01) -> Muon:
    return Muon(flow.parameters(), matrices(flow), lr=lr, rest=ADAMAX)


def test_the_convolutions_of_coupling_networks_and_splits_are_its_own() -> None:
    flow = glow()
    names = {p: name for name, p in flow.named_parameters()}
    own = {names[p] for p in muon(flow).param_groups[0]["params"]}
    assert own == {name for name, p in flow.named_parameters() if name.endswith(".weight")}
    assert len(own) == 7  # three per level, and the split


def test_the_first_step_is_orthogonal_times_the_rate() -> None:
    layer = nn.Linear(6, 4, bias=False)
    before = layer.weight.detach().clone()
    optimizer = Muon([layer.weight], {layer.weight: 2}, lr=0.1, rest=lambda rest: _Nothing(rest))
    layer(torch.randn(7, 6)).square().sum().backward()
    optimizer.step()
    values = torch.linalg.svdvals(before - layer.weight.detach()) / 0.1
    assert values.min() > 0.6
    assert values.max() < 1.3


class _Nothing(torch.optim.Optimizer):
    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__([{"params": params}], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        pass


def steps(flow: Glow, optimizer: torch.optim.Optimizer, n: int, seed: int = 0) -> list[float]:
    losses, source = [], torch.Generator().manual_seed(seed)
    for _ in range(n):
        x = torch.randint(17, (16, 1, 8, 8), generator=source)
        loss = -flow.train().log_prob(x, generator=source).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_restored_one_goes_on_bit_for_bit() -> None:
    flow = glow()
    optimizer = muon(flow)
    steps(flow, optimizer, 3)
    other = glow()
    other.load_state_dict(flow.state_dict())
    restored = muon(other)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert steps(flow, optimizer, 3, seed=1) == steps(other, restored, 3, seed=1)
    for a, b in zip(flow.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_schedule_acts_on_both_kinds() -> None:
    flow = glow()
    optimizer = muon(flow)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 if step else 1.0)
    before: list[Tensor] = [p.detach().clone() for p in flow.parameters()]
    optimizer.step()
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.005, 0.005]
    assert all(
        torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True)
    )  # no gradients, no step


def test_it_trains() -> None:
    losses = steps(flow := glow(), muon(flow), 60)
    assert sum(losses[-10:]) < sum(losses[:10])


def test_what_cannot_work_is_refused() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="no module of this model has any"):
        Muon(layer.parameters(), {}, rest=ADAMAX)
    with pytest.raises(UsageError, match="optimizer.momentum"):
        Muon(layer.parameters(), {layer.weight: 2}, momentum=1.0, rest=ADAMAX)
