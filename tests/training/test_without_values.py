"""Work of the device alone: steps, densities and samples of tensors without values."""

from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from glow.errors import without_looking_at_values
from glow.flows import Flow
from glow.fused import level, products
from glow.training import MaximumLikelihood, Muon
from glow.training.graphs import WholeStep
from glow.training.muon import optimizer_of

from .small import SMALL
from .stand_in import NoCopies, capturable_on_a_cpu

ADAMAX = partial(torch.optim.Adamax, lr=1e-3, capturable=True)
OPTIMIZERS: dict[str, Any] = {
    "muon": partial(Muon, lr=1e-2, rest=ADAMAX),
    "adamax": ADAMAX,
    "adam": partial(torch.optim.Adam, lr=1e-3, capturable=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, capturable=True),
}


IMAGES: dict[str, Any] = {"event_shape": [1, 8, 8], "grey_levels": 17}
MODELS: dict[str, dict[str, Any]] = {
    "glow": SMALL, "mixture": {**SMALL, "coupling": "mixture"}, "full": {**SMALL, "permutation": "full"},
    "nice": {**IMAGES, "_target_": "glow.flows.NICE"}, "realnvp": {**IMAGES, "_target_": "glow.flows.RealNVP", "levels": 2, "blocks": 1, "width": 8},
    "pixelcnn": {**IMAGES, "_target_": "glow.flows.PixelCNN", "width": 8, "layers": 2},
    "vae": {**IMAGES, "_target_": "glow.flows.VAE", "grey_levels": 2},
}  # fmt: skip


def without_values(module: MaximumLikelihood, device: str) -> list[Any]:
    """Take the values out of a module; noise, data and labels (4, ...) without values."""
    module.flow.initialized = True
    noise = module.noise(4, torch.Generator())
    module._apply(lambda t: torch.empty_like(t, device=device))
    dtype = torch.float32 if module.flow.grey_levels is None else torch.uint8
    x = torch.zeros(4, *module.flow.event_shape, dtype=dtype, device=device)
    noise = None if noise is None else torch.zeros(noise.shape, device=device)
    return [noise, x, torch.zeros(4, dtype=torch.long, device=device)]


@pytest.mark.parametrize(
    ("changed", "optimizer", "low"),
    [
        ({}, "muon", False),
        ({}, "muon", True),
        ({"gaussianize": False, "noise_width": 0, "position": False, "recompute": "step"}, "adamax", True),
        ({"coupling": "additive", "permutation": "shuffle", "depth": 2, "recompute": "step"}, "adam", False),
        ({"recompute": "reversible"}, "adamw", True),
        ({"kernels": "triton"}, "muon", True),
    ],
)
def test_a_step_is_work_of_the_device_alone(
    changed: dict[str, Any], optimizer: str, low: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without values, each of .item(), branches on values, and shapes that depend on them raises."""
    if "kernels" in changed:
        pytest.importorskip("triton")
    capturable_on_a_cpu(monkeypatch)
    monkeypatch.setattr(products, "use_convolution", lambda x: False)  # the GPU's way
    monkeypatch.setattr(level, "use_triton", lambda *_: True)
    module = MaximumLikelihood(None, OPTIMIZERS[optimizer], model={**SMALL, **changed})
    with FakeTensorMode(allow_non_fake_inputs=True):
        noise, *batch = without_values(module, "cpu")
        clip = partial(torch.nn.utils.clip_grad_norm_, list(module.parameters()), 20.0)
        step = WholeStep(module, optimizer_of(module, OPTIMIZERS[optimizer]), clip, "stop")
        step.set_rates()
        with without_looking_at_values(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            for _ in range(2):
                assert step(noise, *batch).losses.shape == (4,)


def test_the_loss_copies_nothing_between_host_and_device() -> None:
    module = MaximumLikelihood(None, None, model=SMALL)
    with FakeTensorMode(allow_non_fake_inputs=True):
        noise, *batch = without_values(module, "cuda")
        with NoCopies(), without_looking_at_values():
            for given in (batch, batch[:1]):  # with and without labels
                assert module.loss(tuple(given), noise).device.type == "cuda"
        with NoCopies(), pytest.raises(RuntimeError, match="copies between"):
            noise.cpu()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_densities_and_samples_are_work_of_the_device_alone(model: dict[str, Any]) -> None:
    module = MaximumLikelihood(None, None, model=model).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        noise, *batch = without_values(module, "cuda")
        with NoCopies(), without_looking_at_values():
            assert module.loss(tuple(batch), noise).shape == (4,)
            if isinstance(flow := module.flow, Flow):
                latents = [torch.zeros(4, *shape, device="cuda") for shape in flow.latent_shapes]
                assert flow.generate(latents, batch[1] if flow.classes else None).shape == batch[0].shape


@pytest.mark.parametrize("solver", ["dopri5", "rk4"])
@pytest.mark.parametrize("training", [False, True])
def test_differential_equations_need_the_host(solver: str, training: bool) -> None:
    model = {"_target_": "glow.flows.FFJORD", "event_shape": [2], "hidden": 8, "solver": solver}
    module = MaximumLikelihood(None, None, model=model).train(training)
    with FakeTensorMode(allow_non_fake_inputs=True):
        noise, *batch = without_values(module, "cpu")
        with without_looking_at_values(), pytest.raises(DataDependentOutputException):
            module.loss(tuple(batch), noise)


def test_labels_that_are_looked_at_need_their_values() -> None:
    module = MaximumLikelihood(None, None, model=SMALL)
    with FakeTensorMode(allow_non_fake_inputs=True):
        noise, *batch = without_values(module, "cpu")
        with pytest.raises(DataDependentOutputException):
            module.loss(tuple(batch), noise)
