"""Flows in integers: nothing is lost, files have the size of the likelihood, and every machine computes the same."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import glow
from glow.bijections import ActNorm, Bijection, LUConv1x1
from glow.codec import Coder, decode, encode
from glow.codec.fixed import BITS, FixedConv, FixedNet
from glow.codec.stack import WORD, NotCodableError, Stack
from glow.codec.steps import Mixed
from glow.errors import UsageError
from glow.evaluation.bits import in_unit
from glow.flows import Glow, RealNVP
from glow.networks import ConvNet

from .models import MODELS, images, make


def borrowed_from(words: int = 60_000) -> Stack:
    return Stack(np.random.default_rng(0).integers(1, 2**32, words, dtype=np.uint32))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [1, 70])
def test_images_come_back(name: str, n: int) -> None:
    flow = make(name)
    x = images(flow, n)
    assert torch.equal(decode(flow, encode(flow, x, verify=False)), x)


@pytest.mark.parametrize("name", MODELS)
def test_strange_images_come_back(name: str) -> None:
    """Noise, one value, and the two ends in turn: dear or cheap, never lost."""
    flow = make(name)
    levels = flow.grey_levels or 2
    noise = torch.randint(levels, (12, *flow.event_shape))
    ends = (torch.arange(noise[0].numel()) % 2 * (levels - 1)).view(1, *flow.event_shape).repeat(12, 1, 1, 1)
    constant = torch.full_like(noise, levels - 1)
    x = torch.cat((noise, ends, constant)).to(torch.uint8)
    assert torch.equal(decode(flow, encode(flow, x, verify=False)), x)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"white"}))
def test_the_rate_is_that_of_the_flow(name: str) -> None:
    """Of flows that fit: what others push does not look like noise to those that borrow it."""
    flow, draws = make(name), 20
    n = max(60, 20_000 // np.prod(flow.event_shape))
    x, y = images(flow, n), torch.randint(-1, flow.classes, (n,)) if flow.classes else None
    stack, coder = borrowed_from(), Coder(flow)
    before = len(stack)
    coder.push(stack, x, y)
    rate = (len(stack) - before) * WORD / x.numel()
    with torch.no_grad():
        promised = torch.stack([in_unit(-flow.log_prob(x, y), flow).mean() for _ in range(draws)])
    labels = np.log2(flow.classes + 1) / coder.dimensions
    groups = np.log2(coder.group + 1) / (coder.group * coder.dimensions)
    # The stack's own draw of the noise is one of many.
    assert rate == pytest.approx(
        float(promised.mean()) + labels + groups, abs=0.01 + 3 * float(promised.std())
    )


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"white"}))
def test_among_others_an_image_takes_what_the_flow_promises(name: str) -> None:
    flow = make(name)
    x = images(flow, 1).expand(40, -1, -1, -1)
    y = torch.zeros(40, dtype=torch.long) if flow.classes else None
    with torch.no_grad():
        promised = flow.log_prob(x, y).double() / -np.log(2)
    slack = 2 + 4 * float(promised.std()) + 32 / 40  # the size of the group, noise, a word
    label = np.log2(flow.classes + 1) if flow.classes else 0
    found = Coder(flow).bits_among_others(x, y)
    assert found == pytest.approx(float(promised.mean()) + label, abs=slack)


@pytest.mark.parametrize("name", MODELS)
def test_every_step_is_that_of_the_flow(name: str) -> None:
    """Of real numbers that are not far from the integers', the latents are not far."""
    flow = make(name).double()
    coder, stack = Coder(flow), borrowed_from()
    channels, height, width = flow.event_shape
    x = torch.randint(-(2 ** (BITS - 2)), 2 ** (BITS - 2), (5, height, width, channels))
    y = torch.randint(flow.classes, (5,)) if flow.classes else None
    context = None if y is None else nn.functional.one_hot(y, flow.classes).double()
    parts = list(flow.bijection.parts())[
        1 if flow.bijection.kind == "" and "gaussianize" in MODELS[name] else 0 :
    ]
    with torch.no_grad():
        found = coder._latents_of(stack, x, context)
        latents: list[Tensor] = []
        z = x.movedim(3, 1).double() / 2**BITS
        for part in parts:
            z, _ = part.forward(z, context, latents)
    for integers, real in zip(found, [*latents, z], strict=True):
        torch.testing.assert_close(integers.movedim(3, 1).double() / 2**BITS, real, rtol=0, atol=5e-3)


class TestNetworks:
    def test_they_are_nearly_those_of_real_numbers(self) -> None:
        net = ConvNet(3, 5, 16, (6, 4), position=True, context_channels=2)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        x = torch.randint(-(2**15), 2**15, (7, 6, 4, 3))
        context = torch.eye(2)[torch.randint(2, (7,))]
        with torch.no_grad():
            expected = net.double()(x.movedim(3, 1).double() / 2**BITS, context.double()).movedim(1, 3)
            found = FixedNet(net, BITS, "net")(x, context).double() / 2**BITS
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-3)

    def test_sums_are_exact_in_the_worst_case(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every input and weight at its largest, and of one sign: against Python's integers."""
        net = ConvNet(48, 6, 512)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(1.0)
        seen = []

        def product(x: Tensor, weight: Tensor) -> Tensor:
            sums = x @ weight
            first, second = x.reshape(-1, x.shape[-1])[0].tolist(), weight[:, 0].tolist()
            exact = sum(int(a) * int(b) for a, b in zip(first, second, strict=True))
            assert exact < 2**53
            assert int(sums.flatten()[0]) == exact
            seen.append(exact)
            return sums

        monkeypatch.setattr(FixedConv, "product", staticmethod(product))
        FixedNet(net, BITS, "net")(torch.full((1, 2, 2, 48), 2**40), None)
        assert max(seen) > 2**48
        assert len(seen) == 3


def test_values_that_leave_the_range_are_stored() -> None:
    """A flow that stretches each pixel by e^0.4 in every step, and pixels that it has never seen."""
    flow = Glow((1, 8, 8), 2, levels=1, depth=60, width=4, permutation="reverse", coupling="additive")
    flow.initialize(torch.zeros(64, 1, 8, 8, dtype=torch.long).index_fill(3, torch.tensor([0]), 1))
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith("step.0.logs") or "steps.0.logs" in name:
                parameter += 0.4
    x = torch.randint(2, (20, 1, 8, 8)).to(torch.uint8)
    data = encode(flow.eval(), x, verify=False)
    assert torch.equal(decode(flow, data), x)
    assert len(data) < 20 * 8 * 8


def test_a_matrix_whose_sums_would_not_be_exact_is_refused() -> None:
    norm, mixing = ActNorm(48), LUConv1x1(48)
    with torch.no_grad():
        norm.logs -= 5
    step, stack = Mixed(norm, mixing), borrowed_from()
    most = 2.0**52 / max(float(m.abs().sum(1).max()) for m in (step.upper, step.lower))
    for size in (most / 4, most / 1e3):
        x = torch.randint(-int(size), int(size), (2, 3, 3, 48))
        try:
            z = step(stack, x, None)
        except NotCodableError:
            continue
        assert torch.equal(step.inverse(stack, z, None), x)
    with pytest.raises(NotCodableError):
        step(stack, torch.full((1, 1, 1, 48), int(2 * most)), None)


class TestPortability:
    """The same bytes whatever computes them."""

    @pytest.mark.parametrize("name", ["labelled", pytest.param("mixture", marks=pytest.mark.slow)])
    def test_threads_batches_and_the_order_of_sums(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        flow = make(name)
        x, y = images(flow, 40), torch.randint(-1, 3, (40,)) if flow.classes else None
        torch.set_num_threads(1)
        data = encode(flow, x, y, verify=False)
        torch.set_num_threads(2)
        assert encode(flow, x, y, verify=False) == data
        one_by_one = FixedNet.forward

        def split(net: FixedNet, x: Tensor, context: Tensor | None = None) -> Tensor:
            given = [None] * len(x) if context is None else context.split(1)
            return torch.cat([one_by_one(net, a, b) for a, b in zip(x.split(1), given, strict=True)])

        with monkeypatch.context() as patched:
            patched.setattr(FixedNet, "forward", split)
            assert encode(flow, x, y, verify=False) == data

        def in_another_order(x: Tensor, weight: Tensor) -> Tensor:
            order = torch.randperm(len(weight))
            return x[..., order] @ weight[order]

        monkeypatch.setattr(FixedConv, "product", staticmethod(in_another_order))
        assert encode(flow, x, y, verify=False) == data
        assert torch.equal(decode(flow, data), x)

    def test_networks_in_float32_would_not_come_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flow = make("labelled")
        x, y = images(flow, 40), torch.randint(-1, 3, (40,))

        def in_float32(x: Tensor, weight: Tensor) -> Tensor:
            order = torch.randperm(len(weight))
            return (x[..., order].float() @ weight[order].float()).double()

        monkeypatch.setattr(FixedConv, "product", staticmethod(in_float32))
        data = encode(flow, x, y, verify=False)
        with pytest.raises(UsageError, match=r"other pixels|is damaged"):
            decode(flow, data)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["labelled", "mixture"])
    def test_another_instruction_set(self, name: str, tmp_path: Path) -> None:
        """The kernels for processors without AVX, in a process of their own."""
        code = """
import sys, torch
from tests.codec.models import images, make
from glow.codec import decode, encode
torch.manual_seed(0)
flow = make(sys.argv[3])
x, y = images(flow, 40), torch.randint(-1, 3, (40,)) if flow.classes else None
if sys.argv[1] == "write":
    open(sys.argv[2], "wb").write(encode(flow, x, y)); torch.save((flow.state_dict(), x), sys.argv[2] + ".pt")
else:
    state, x = torch.load(sys.argv[2] + ".pt")
    flow.load_state_dict(state)
    data = open(sys.argv[2], "rb").read()
    assert torch.equal(decode(flow, data), x) and encode(flow, x, y, verify=False) == data
"""
        for mode, capability in (("write", ""), ("read", "default")):
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            environment |= {"ATEN_CPU_CAPABILITY": capability} if capability else {}
            command = [sys.executable, "-c", code, mode, str(tmp_path / "file"), name]
            subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2], timeout=120)


@pytest.mark.parametrize(
    ("flow", "what"),
    [
        (lambda: Glow((1, 4, 4), depth=1, width=4, levels=1, permutation="full"), "mixing: FullConv1x1"),
        (lambda: Glow((1, 4, 4), depth=1, levels=1, network=_Own), "coupling: a network _Own"),
        (lambda: RealNVP((2,)), "RealNVP: only flows of images"),
        (lambda: Glow((1, 4, 4), depth=1, levels=1, network=partial(_Smooth, width=4)), "coupling: a network _Smooth"),
        (lambda: _with_gelu(), "coupling: a network ConvNet"),
    ],
)  # fmt: skip
def test_what_has_no_form_in_integers_is_named(flow: object, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        Coder(flow().eval())  # type: ignore[operator]


class _Smooth(ConvNet):
    pass


def _with_gelu() -> Glow:
    flow = Glow((1, 4, 4), depth=1, width=4, levels=1)
    for module in list(flow.modules()):
        if isinstance(module, ConvNet):
            module[1] = nn.GELU()
    return flow


class _Own(nn.Conv2d):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_weights_that_come_with_the_project(name: str) -> None:
    """Their own draws, which they know best, and noise."""
    flow = glow.load(name)
    x = torch.cat((flow.sample(6, y=torch.arange(6)), torch.randint(256, (2, 1, 28, 28)).to(torch.uint8)))
    assert torch.equal(decode(flow, encode(flow, x, torch.full((8,), -1), verify=False)), x)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_files_of_the_past_are_read(name: str) -> None:
    """Twenty images, written once: other bytes would mean that no file can be read any more."""
    flow, data = glow.load(name), (Path(__file__).parents[1] / "golden" / f"{name}.glow").read_bytes()
    x = decode(flow, data)
    assert x.shape == (20, 1, 28, 28)
    assert encode(flow, x, torch.full((20,), -1), verify=False) == data


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_written_on_a_gpu_and_read_on_a_cpu(name: str, device: torch.device) -> None:
    flow = make(name)
    x = images(flow, 70 if device.type == "cuda" else 5)
    data = encode(flow, x)
    assert encode(flow.to(device), x) == data
    assert torch.equal(decode(flow.cpu(), data), x)


@pytest.mark.parametrize("y", [[0], [0, 1, 3], [0, 1, -2]])
def test_labels_that_do_not_fit(y: list[int]) -> None:
    flow = make("labelled")
    with pytest.raises(UsageError, match="y must be one integer label from 0 to 2"):
        encode(flow, images(flow, 3), torch.tensor(y))


def test_equal_weights_have_equal_fingerprints_and_others_not() -> None:
    flow = make("plain")
    coder = Coder(flow)
    assert Coder(flow).fingerprint == coder.fingerprint
    with torch.no_grad():
        next(p for p in flow.parameters()).add_(0.01)
    assert Coder(flow).fingerprint != coder.fingerprint


def test_a_bijection_of_one_s_own_is_named() -> None:
    class Own(Bijection):
        def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return x, x.new_zeros(len(x))

        inverse = forward

    flow = make("plain")
    flow.bijection = Own()
    with pytest.raises(UsageError, match="Own has no form in integers"):
        Coder(flow)
