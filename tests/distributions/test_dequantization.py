"""Integers to reals and back, with the level correction."""

import math

import pytest
import torch

from glow.distributions.dequantization import Dequantization
from glow.errors import UsageError


class TestDequantization:
    @pytest.mark.parametrize("bits", [1, 5, 8])
    def test_the_formula_of_the_release(self, bits: int) -> None:
        levels = 2**bits
        q = torch.arange(levels, dtype=torch.uint8).view(1, 1, 1, levels)
        noise = torch.rand(q.shape)
        z, log_det = Dequantization(levels)(q, noise=noise)
        expected = q.float() / levels - 0.5 + noise / levels
        torch.testing.assert_close(z, expected)
        assert log_det.item() == pytest.approx(-levels * math.log(levels))

    def test_log_det_is_the_jacobian_of_the_scaling(self) -> None:
        layer = Dequantization(17)
        q = torch.randint(17, (1, 1, 2, 2))

        def f(noise: torch.Tensor) -> torch.Tensor:
            return layer(q, noise=noise)[0].flatten()

        jacobian = torch.autograd.functional.jacobian(f, torch.rand(1, 1, 2, 2, dtype=torch.float64))
        expected = torch.linalg.slogdet(jacobian.view(4, 4))[1]
        torch.testing.assert_close(layer(q, noise=torch.tensor(0.5).double())[1][0], expected)

    @pytest.mark.parametrize("levels", [2, 17, 32, 256])
    def test_every_level_comes_back(self, levels: int) -> None:
        layer = Dequantization(levels)
        q = torch.arange(levels, dtype=torch.uint8).view(1, -1)
        for noise in (0.001, 0.5, 0.999):
            assert torch.equal(layer.quantize(layer(q, noise=torch.tensor(noise))[0]), q)

    def test_noise_stays_inside_the_bin(self) -> None:
        layer = Dequantization(256)
        z, _ = layer(torch.full((1, 10_000), 7, dtype=torch.uint8), layer.noise(1, (10_000,)))
        assert z.min() >= 7 / 256 - 0.5
        assert z.max() <= 8 / 256 - 0.5
        assert z.var() * 256**2 == pytest.approx(1 / 12, rel=0.1)

    def test_refuses_floats_and_levels_out_of_range(self) -> None:
        with pytest.raises(UsageError, match="integers from 0 to 255, got torch.float32"):
            Dequantization(256)(torch.rand(1, 2), torch.tensor(0.5))
        with pytest.raises(UsageError, match="integers from 0 to 16, got values from 0 to 17"):
            Dequantization(17)(torch.tensor([[0, 17]]), torch.tensor(0.5))
        with pytest.raises(UsageError, match="grey_levels must be between 2 and 256, got 1"):
            Dequantization(1)

    def test_counts_what_is_not_finite(self) -> None:
        z = torch.zeros(3, 4)
        z[1, 2] = float("nan")
        with pytest.warns(UserWarning, match="1 of 3 images"):
            x = Dequantization(256).quantize(z)
        assert x[1, 2] == 0
