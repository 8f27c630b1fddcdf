"""Signals sample by sample."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from glow.errors import UsageError
from glow.flows import WaveNet
from glow.networks import DilatedCNN


def shaken(module: nn.Module, sd: float = 0.3) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += sd * torch.randn_like(parameter)
    return module.double().eval()


def all_signals(channels: int, length: int, levels: int) -> Tensor:
    values = itertools.product(range(levels), repeat=channels * length)
    return torch.tensor(list(values), dtype=torch.uint8).view(-1, channels, length)


@pytest.mark.parametrize(("channels", "length", "levels"), [(1, 4, 4), (2, 2, 3), (1, 1, 256)])
def test_probabilities_of_all_signals_sum_to_one(channels: int, length: int, levels: int) -> None:
    model = shaken(WaveNet((channels, length), levels, width=8, layers=1, components=3), 0.5)
    log_prob = model.log_prob(all_signals(channels, length, levels))
    assert log_prob.std() > 0.1
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("layers", "stacks"), [(1, 1), (3, 1), (2, 2), (3, 2)])
def test_a_sample_sees_exactly_as_far_back_as_is_said(layers: int, stacks: int) -> None:
    length = 20
    network = shaken(DilatedCNN(1, 1, 12, layers, stacks))
    jacobian = torch.autograd.functional.jacobian(
        lambda x: network(x.view(1, 1, 1, length)).flatten(), 2 * torch.rand(length).double() - 1
    )
    back = torch.arange(length)[:, None] - torch.arange(length)
    assert torch.equal(jacobian != 0, (back > 0) & (back <= stacks * (2**layers - 1) + 1))


@pytest.mark.parametrize(("channels", "length"), [(1, 11), (2, 3)])
def test_unrolled_it_is_the_same_network(channels: int, length: int) -> None:
    """Also where dilations are longer than the signal."""
    network = shaken(DilatedCNN(channels, 4, 6, layers=3, stacks=2))
    x, found = torch.rand(2, channels, 1, length).double(), torch.zeros(2, 4, 1, length).double()

    def choose(parameters: Tensor, i: int, j: int) -> Tensor:
        found[:, :, i, j] = parameters[..., 0, 0]
        return x[:, :, i, j]

    with torch.no_grad():
        torch.testing.assert_close(network.unroll(torch.zeros_like(x), choose), x)
        torch.testing.assert_close(found, network(x))


def frequencies(x: Tensor, levels: int) -> Tensor:
    numbers = (x.flatten(1).long() * levels ** torch.arange(x[0].numel() - 1, -1, -1)).sum(1)
    return numbers.bincount(minlength=levels ** x[0].numel()).double() / len(x)


def test_samples_follow_the_probabilities() -> None:
    model = shaken(WaveNet((1, 3), 3, width=8, layers=2, components=2), 0.5)
    x = model.sample(40_000, generator=torch.Generator().manual_seed(0))
    assert (tuple(x.shape), x.dtype) == ((40_000, 1, 3), torch.uint8)
    expected = model.log_prob(all_signals(1, 3, 3)).exp()
    torch.testing.assert_close(frequencies(x, 3), expected, atol=0.01, rtol=0)


def test_continuations_are_conditional_samples() -> None:
    model = shaken(WaveNet((1, 4), 3, width=8, layers=2, components=2), 0.5)
    start, missing = torch.tensor([[2, 1, 0, 0]]), torch.tensor([[False, False, True, True]])
    x = model.complete(start, missing, 30_000, generator=torch.Generator().manual_seed(0))
    assert (x[:, 0, :2] == torch.tensor([2, 1])).all()
    whole = torch.cat((start[None, :, :2].expand(9, 1, 2).to(torch.uint8), all_signals(1, 2, 3)), dim=2)
    torch.testing.assert_close(
        frequencies(x[:, :, 2:], 3), model.log_prob(whole).softmax(0), atol=0.012, rtol=0
    )
    for hole, message in (
        (~missing, "fills signals in order.*mask=right"),
        (missing[0], "missing must be bool"),
    ):
        with pytest.raises(UsageError, match=message):
            model.complete(start, hole, 1)


def test_signals_of_a_batch_do_not_influence_one_another_and_none_is_possible() -> None:
    model, x = shaken(WaveNet((1, 8), 5, width=8, layers=3)), torch.randint(5, (6, 1, 8))
    torch.testing.assert_close(model.log_prob(x), torch.cat([model.log_prob(row) for row in x.split(1)]))
    assert model.sample(0).shape == (0, 1, 8)
    assert model.log_prob(model.sample(0)).shape == (0,)
    assert model.noise(3) is None
    assert (model.in_bits, model.kind) == (True, "signals")


def test_it_learns() -> None:
    torch.manual_seed(0)
    start = torch.randint(4, (64, 1, 1))
    x = (start + torch.arange(16)) % 4  # saws whose phase the first sample tells
    model = WaveNet((1, 16), 4, width=16, layers=2, components=3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = -model.log_prob(x).mean()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert loss < 4  # of 22 nats; 1.4 are the entropy
    drawn = model.sample(20).long()
    assert ((drawn.diff() - 1) % 4 == 0).float().mean() > 0.9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"event_shape": (1, 8, 8)}, "signals"), ({"grey_levels": None}, "signals"), ({"width": 0}, "width"),
        ({"layers": 0}, "layers"), ({"layers": 6}, "layers=6: a dilation of 2.5 in signals of 16 samples"),
        ({"stacks": 1.5}, "stacks"), ({"components": 0}, "components"), ({"grey_levels": 300}, "grey_levels"),
    ],
)  # fmt: skip
def test_refusals(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WaveNet(**{"event_shape": (1, 16), "grey_levels": 17, **wrong})
