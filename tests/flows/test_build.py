"""Flows from plain dictionaries, and with networks of one's own."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from glow.bijections import Repeated
from glow.errors import UsageError
from glow.flows import (
    MAF,
    RECIPES,
    Glow,
    build,
)
from glow.fused import FusedLevel
from glow.networks import ConvNet, ResNet

from .learning import losses_of


class Net(nn.Module):
    """A coupling network that takes neither a size nor a context."""

    def __init__(self, in_channels: int, out_channels: int, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)
        nn.init.normal_(self.last.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


class Sized(Net):
    """One with a bias per pixel."""

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        super().__init__(in_channels, out_channels)
        self.bias = nn.Parameter(torch.zeros(out_channels, *size))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.bias


class Conditioned(Net):
    """One that takes everything that there is."""

    def __init__(self, in_channels: int, out_channels: int, context_channels: int, **options: object) -> None:
        super().__init__(in_channels, out_channels)
        assert context_channels == 0
        assert set(options) == {"size"}

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        assert context is None
        return super().forward(x)


class TestNetworksOfOnesOwn:
    def test_a_glow_of_mixtures_does_so(self) -> None:
        """With the network that is there without one of one's own."""
        flow = Glow((1, 8, 8), 17, levels=2, depth=2, width=16, coupling="mixture", components=3)
        x = torch.randint(17, (16, 1, 8, 8))
        flow.initialize(x)
        losses = losses_of(flow, x, lr=3e-3)
        assert losses[-1] < losses[0] - 5
        assert torch.equal(flow.decode(flow.encode(x)), x)

    @pytest.mark.parametrize("network", [Net, Sized, Conditioned, partial(Net, width=5), ResNet])
    @pytest.mark.parametrize("coupling", ["affine", "additive"])
    def test_a_glow_trains_samples_and_comes_back(
        self, network: Callable[..., nn.Module], coupling: str
    ) -> None:
        flow = Glow((1, 8, 8), 17, levels=2, depth=2, coupling=coupling, network=network)
        levels = [m for m in flow.modules() if isinstance(m, Repeated)]
        assert len(levels) == 2
        assert not any(isinstance(m, FusedLevel) for m in levels)
        x = torch.randint(17, (16, 1, 8, 8))
        flow.initialize(x)
        losses = losses_of(flow, x)
        assert losses[-1] < losses[0] - 5
        assert all(p.grad is not None for p in flow.parameters())
        flow.eval().double()
        assert torch.equal(flow.decode(flow.encode(x)), x.to(torch.uint8))
        assert flow.sample(3).shape == (3, 1, 8, 8)
        twin = Glow((1, 8, 8), 17, levels=2, depth=2, coupling=coupling, network=network)
        twin.load_state_dict(flow.state_dict())
        copy.deepcopy(pickle.loads(pickle.dumps(flow)))

    def test_the_kernels_take_a_glow_s_own_networks(self) -> None:
        for options in ({}, {"network": partial(ConvNet, width=5)}, {"coupling": "additive"}):
            flow = Glow((1, 8, 8), levels=2, depth=2, width=5, **options)
            assert sum(isinstance(m, FusedLevel) for m in flow.modules()) == 2

    def test_recomputing_is_for_the_kernels(self) -> None:
        with pytest.raises(
            UsageError, match="recompute must be none with coupling=mixture or a network of one's own"
        ):
            Glow((1, 8, 8), levels=1, depth=1, network=Net, recompute="step")
        with pytest.raises(UsageError, match="kernels must be torch with coupling=mixture .* got 'triton'"):
            Glow((1, 8, 8), levels=1, depth=1, coupling="mixture", kernels="triton")


class TestBuild:
    GLOW = {"_target_": "glow.flows.Glow", "event_shape": [1, 8, 8], "depth": 1, "width": 4}

    def test_from_a_plain_dict(self) -> None:
        flow = build({**self.GLOW, "_partial_": False, "_convert_": "all", "_recursive_": False})
        assert type(flow) is Glow
        assert flow.event_shape == (1, 8, 8)

    @pytest.mark.parametrize("target", RECIPES)
    def test_every_recipe(self, target: str) -> None:
        shape = [1, 8, 8] if target.endswith(("Glow", "VAE", "PixelCNN", "PixelRNN")) else [3]
        shape = [1, 256] if target.endswith("WaveNet") else shape
        options = {"grey_levels": 2} if len(shape) == 3 else {}
        assert type(build({"_target_": target, "event_shape": shape, **options})) is RECIPES[target]

    def test_with_a_network_of_the_table(self) -> None:
        node = {"_target_": "glow.networks.ResNet", "width": 4, "blocks": 1}
        flow = build({**self.GLOW, "network": node})
        assert sum(isinstance(m, ResNet) for m in flow.modules()) == 3

    def test_with_classes_that_the_caller_trusts(self) -> None:
        flow = build(
            {**self.GLOW, "network": {"_target_": "mypkg.Net", "width": 3}}, classes={"mypkg.Net": Net}
        )
        assert sum(isinstance(m, Net) for m in flow.modules()) == 3
        own = {"_target_": "mypkg.Mine", "event_shape": [2]}
        assert type(build(own, {"mypkg.Mine": MAF})) is MAF

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"_target_": "glow.flows.Glo"},
                "'glow.flows.Glo' is not one of .*; did you mean 'glow.flows.Glow'",
            ),
            ({"event_shape": [2]}, "model._target_=None is not one of glow.flows.Glow, "),
            ({**GLOW, "dept": 3}, "model.dept is not an option of glow.flows.Glow; did you mean 'depth'"),
            ({"_target_": "glow.flows.Glow"}, "model.event_shape is missing"),
            (
                {"_target_": "os.system", "command": "true"},
                r"os.system is a class of your own: name it again, \+\+model._target_=os.system$",
            ),
            (
                {**GLOW, "network": {"_target_": "mypkg.Net"}},
                r"name it again, \+\+model.network._target_=mypkg.Net$",
            ),
            (
                {
                    **GLOW,
                    "network": {"_target_": "glow.networks.ConvNet", "width": {"_target_": "os.getpid"}},
                },
                r"\+\+model.network.width._target_=os.getpid$",
            ),
            (
                {**GLOW, "levels": [{"a": {"_target_": "os.abort"}}]},
                r"\+\+model.levels.0.a._target_=os.abort$",
            ),
            (
                {**GLOW, "network": {"_target_": "glow.networks.ConvNet", "widht": 3}},
                "model.network.widht is not an option of glow.networks.ConvNet; did you mean 'width'",
            ),
        ],
    )
    def test_bad_ones(self, config: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            build(config)
