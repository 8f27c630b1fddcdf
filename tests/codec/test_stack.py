"""Numbers in and out of a message, and what they cost."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from glow.codec import tables
from glow.codec.stack import LARGEST, WORD, NotCodableError, Stack, scale, unscale


def full(words: int = 20_000, seed: int = 0) -> Stack:
    """A stack to borrow from."""
    return Stack(np.random.default_rng(seed).integers(1, 2**32, words, dtype=np.uint32))


class TestTables:
    def test_they_are_the_functions(self) -> None:
        x = torch.linspace(-9, 9, 101).double()
        torch.testing.assert_close(tables.exp(x), x.exp(), rtol=1e-15, atol=0)
        torch.testing.assert_close(tables.sigmoid(x), x.sigmoid(), rtol=1e-15, atol=0)
        z = np.linspace(-8, 8, 1025)
        ranks = tables.normal_ranks()
        np.testing.assert_allclose(ranks[1:-1].numpy(), special.ndtr(z)[1:-1], rtol=1e-12)
        assert (ranks.diff() > 0).all()
        assert ranks[[0, -1]].tolist() == [0, 1]
        torch.testing.assert_close(tables.normal_number(ranks), torch.from_numpy(z), rtol=0, atol=1e-9)

    def test_ranks_and_normal_numbers_are_monotone_and_inverse(self) -> None:
        z = (torch.rand(20_000).double() * 18 - 9).sort().values
        ranks = tables.rank(z)
        assert (ranks.diff() >= 0).all()
        inside = z.abs() < 5
        torch.testing.assert_close(tables.normal_number(ranks)[inside], z[inside], rtol=0, atol=1e-9)
        assert (tables.normal_number(torch.rand(20_000).double().sort().values).diff() >= 0).all()

    def test_bins_sum_to_a_power_of_two(self) -> None:
        counts = tables.bin_probabilities(24)
        assert counts.sum() == 2**24
        assert counts.min() == 1
        assert len(counts) == 1025


def test_what_is_popped_is_what_was_pushed() -> None:
    stack, sizes = Stack(), torch.randint(1, 5000, (3, 50))
    x = (torch.rand(3, 50) * sizes).long()
    stack.push(x, sizes)
    stack.push(x[0], 5000)
    stack.push(torch.zeros(4).long(), 1)
    assert stack.pop(1, 4).tolist() == [0] * 4
    assert torch.equal(stack.pop(5000, 50), x[0])
    assert torch.equal(stack.pop(sizes), x)
    assert len(stack) == 0


@pytest.mark.parametrize("factor", [0.1, 0.97, 1.0, 3.7])
def test_a_scale_comes_back_and_costs_its_logarithm(factor: float) -> None:
    stack, x = full(), torch.randint(-(2**16), 2**16, (4, 5, 500))
    before, words = len(stack), stack.words()
    ratio = torch.full_like(x, round(factor * 4096))
    z = scale(stack, x, ratio, 12)
    assert (z - x * factor).abs().max() < 2**16 * 2e-4 + 2
    bits = (len(stack) - before) * WORD / x.numel()
    assert bits == pytest.approx(-math.log2(factor), abs=0.01)
    assert torch.equal(unscale(stack, z, ratio, 12), x)
    np.testing.assert_array_equal(stack.words(), words)


def test_normal_numbers_cost_their_entropy_and_none_is_refused() -> None:
    bits, n = 14, 20_000
    z = (torch.randn(n).double() * 2**bits).round().long()
    stack = Stack()
    stack.push_normal(z, bits)
    expected = float(np.mean(-stats.norm.logpdf(z.numpy() / 2**bits) / math.log(2))) + bits
    assert len(stack) * WORD / n == pytest.approx(expected, abs=0.003)
    assert torch.equal(stack.pop_normal(n, bits), z)
    far = torch.tensor([0, 8 * 2**bits - 1, 8 * 2**bits, -8 * 2**bits, -8 * 2**bits - 1, 2**50, -(2**50)])
    stack.push_normal(far, bits)
    assert torch.equal(stack.pop_normal(7, bits), far)


def test_borrowing_more_than_there_is_is_noticed() -> None:
    with pytest.raises(NotCodableError):
        full(10).borrow(2**12, 30)
    with pytest.raises(NotCodableError):
        scale(full(3), torch.zeros(30).long(), torch.full((30,), 2**18 - 1), 12)
    assert len(full(10).borrow(2**12, 20)) == 20


def test_what_would_leave_64_bits_is_refused() -> None:
    stack, x = full(), torch.tensor([LARGEST - 1, -LARGEST + 1])
    ratio = torch.full_like(x, 2**18 - 1)
    assert torch.equal(unscale(stack, scale(stack, x, ratio, 12), ratio, 12), x)
    with pytest.raises(NotCodableError):
        scale(stack, x + 1, ratio, 12)
