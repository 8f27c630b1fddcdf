"""The coupling networks."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from glow.networks import MLP, ActNormConv2d, ConvNet, ScaledConv2d


def test_only_the_convolutional_network_starts_as_zero() -> None:
    assert not ConvNet(3, 6, 16)(torch.randn(2, 3, 4, 4)).any()
    assert MLP(3, 6, 16)(torch.randn(2, 3)).any()


def test_the_convolutions_start_as_the_release_has_them() -> None:
    first, _, second, _, last = ConvNet(4, 8, 64)
    assert [tuple(c.weight.shape[2:]) for c in (first, second, last)] == [(3, 3), (1, 1), (3, 3)]
    for conv in (first, second):
        assert abs(conv.weight.std().item() - 0.05) < 0.005
    assert not last.weight.any()


def test_the_scale_is_folded_exactly() -> None:
    conv = ScaledConv2d(3, 5, 3, 0.1).double()
    torch.nn.init.normal_(conv.bias)
    torch.nn.init.normal_(conv.logs)
    x = torch.randn(2, 3, 4, 4).double()
    plain = F.conv2d(x, conv.weight, padding=1) + conv.bias.view(-1, 1, 1)
    torch.testing.assert_close(conv(x), plain * torch.exp(3 * conv.logs).view(-1, 1, 1))


def test_actnorm_inside_the_network_standardizes() -> None:
    conv = ActNormConv2d(3, 5, 3)
    x = torch.randn(16, 3, 8, 8) * 9 + 4
    conv.initialize(x)
    y = conv(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_hidden_activations_stay_bf16_under_autocast() -> None:
    seen = []
    net = ConvNet(3, 6, 16)
    for layer in net:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.randn(2, 3, 4, 4))
    assert set(seen) == {torch.bfloat16}
