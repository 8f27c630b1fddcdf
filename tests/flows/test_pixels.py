"""Images pixel by pixel."""

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from glow.distributions.logistics import DiscretizedLogistics
from glow.errors import UsageError
from glow.evaluation.bits import evaluate_log_probs
from glow.flows import PixelCNN, PixelRNN
from glow.flows.pixels import PixelByPixel
from glow.networks import CausalNet, DiagonalRNN, GatedCNN
from glow.networks.diagonal_lstm import diagonals

MODELS = pytest.mark.parametrize("model", [PixelCNN, PixelRNN])


def shaken(module: nn.Module, sd: float = 0.3) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += sd * torch.randn_like(parameter)
    return module.double().eval()


def all_images(shape: tuple[int, ...], levels: int) -> Tensor:
    values = itertools.product(range(levels), repeat=torch.Size(shape).numel())
    return torch.tensor(list(values), dtype=torch.uint8).view(-1, *shape)


@MODELS
@pytest.mark.parametrize(
    ("shape", "levels"),
    [((1, 1, 2), 3), ((1, 2, 2), 3), ((3, 1, 1), 4), ((2, 2, 1), 5), ((1, 1, 1), 256), ((1, 3, 2), 2)],
)
def test_probabilities_of_all_images_sum_to_one(
    model: type[PixelByPixel], shape: tuple[int, ...], levels: int
) -> None:
    made = shaken(model(shape, levels, width=8, layers=2, components=3), 0.5)
    log_prob = made.log_prob(all_images(shape, levels))
    assert log_prob.std() > 0.1
    assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "across", "blind"),
    [
        *((partial(GatedCNN, layers=4, reach=reach), 5, reach == 1) for reach in (1, 2, 3)),
        *(
            (partial(DiagonalRNN, layers=layers), across, False)
            for layers, across in ((1, 9), (3, 5), (2, 3))
        ),
    ],
)
def test_a_pixel_sees_all_above_and_to_the_left_and_nothing_else(
    make: Callable[..., CausalNet], across: int, blind: bool
) -> None:
    """No blind spot: enough gated layers, or one of states, bring all pixels before one; a reach of one sees its inputs alone."""
    height, network = 4, shaken(make(1, 1, width=12))
    images = torch.randn(8, height * across).double()  # some, since a ReLU may hide what one of them shows
    jacobian = torch.autograd.functional.jacobian(
        lambda x: network(x.view(8, 1, height, across)).flatten(1).sum(0), images
    )
    seen = (jacobian != 0).any(1)
    before = torch.ones(height * across, height * across).tril(-1).bool()
    assert not (seen & ~before).any()
    assert blind or torch.equal(seen, before)


@pytest.mark.parametrize(("height", "across"), [(4, 3), (3, 5), (1, 4), (4, 1)])
def test_diagonals(height: int, across: int) -> None:
    order, sizes = diagonals(height, across)
    pixels = sorted(itertools.product(range(height), range(across)), key=lambda pixel: (sum(pixel), pixel))
    assert order.tolist() == [i * across + j for i, j in pixels]
    assert sizes == torch.tensor(pixels).sum(1).bincount().tolist()


@pytest.mark.parametrize(
    ("channels", "network"),
    [(1, GatedCNN(1, 4, 6, 3, 3)), (3, GatedCNN(3, 4, 6, 3, 2)), (1, DiagonalRNN(1, 4, 6, 2)), (3, DiagonalRNN(3, 4, 5, 3))],
)  # fmt: skip
def test_unrolled_it_is_the_same_network(channels: int, network: CausalNet) -> None:
    network = shaken(network)
    x, found = torch.randn(2, channels, 4, 3).double(), torch.zeros(2, 4, 4, 3).double()

    def choose(parameters: Tensor, i: int, j: int) -> Tensor:
        found[:, :, i, j] = parameters[..., 0, 0]
        return x[:, :, i, j]

    with torch.no_grad():
        torch.testing.assert_close(network.unroll(torch.zeros_like(x), choose), x)
        torch.testing.assert_close(found, network(x))


@MODELS
def test_samples_follow_the_probabilities(model: type[PixelByPixel]) -> None:
    made = shaken(model((1, 1, 2), 4, width=8, layers=2, components=2), 0.5)
    x = made.sample(40_000, generator=torch.Generator().manual_seed(0))
    assert (tuple(x.shape), x.dtype) == ((40_000, 1, 1, 2), torch.uint8)
    found = torch.bincount(x[:, 0, 0, 0].long() * 4 + x[:, 0, 0, 1].long(), minlength=16).double() / len(x)
    expected = made.log_prob(all_images((1, 1, 2), 4)).exp()
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


@MODELS
def test_completions_are_conditional_samples(model: type[PixelByPixel]) -> None:
    made = shaken(model((1, 2, 2), 3, width=8, layers=2, components=2), 0.5)
    image, missing = torch.tensor([[[2, 1], [0, 0]]]), torch.tensor([[False, False], [True, True]])
    x = made.complete(image, missing, 30_000, generator=torch.Generator().manual_seed(0))
    assert (x[:, 0, 0] == torch.tensor([2, 1])).all()
    every = all_images((1, 1, 2), 3).unsqueeze(2)
    whole = torch.cat(
        (torch.tensor([[[[2, 1]]]], dtype=torch.uint8).expand(9, 1, 1, 2), every[:, :, 0]), dim=2
    )
    expected = made.log_prob(whole).softmax(0)
    found = torch.bincount(x[:, 0, 1, 0].long() * 3 + x[:, 0, 1, 1].long(), minlength=9).double() / len(x)
    torch.testing.assert_close(found, expected, atol=0.012, rtol=0)
    for wrong, hole, message in (
        (image, ~missing, "mask=bottom"),
        (image.float(), missing, "integers from 0 to 2"),
        (image[:, :1], missing, "must have shape"),
        (image, missing[:1], "missing must be bool"),
    ):
        with pytest.raises(UsageError, match=message):
            made.complete(wrong, hole, 1)


def test_channels_of_a_pixel_are_drawn_one_after_another() -> None:
    pixel = DiscretizedLogistics(3, 5, 2)
    parameters = torch.randn(1, pixel.parameters, 1, 1, dtype=torch.float64)
    x = pixel.sample(parameters.expand(60_000, -1, -1, -1), 1.0, torch.Generator().manual_seed(0))
    found = torch.bincount((x.flatten(1) * torch.tensor([25, 5, 1])).sum(1), minlength=125).double() / len(x)
    every = all_images((3, 1, 1), 5)
    expected = pixel.log_prob(parameters.expand(125, -1, -1, -1), every).exp().flatten()
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_a_level_far_away_has_a_finite_probability_and_gradient() -> None:
    pixel = DiscretizedLogistics(1, 256, 1)
    for mean, log_scale, level in ((0.9, -7.0, 3), (-1.0, -20.0, 255), (1.0, -7.0, 0), (5.0, 3.0, 128)):
        parameters = torch.tensor([0.0, mean, log_scale]).view(1, 3, 1, 1).requires_grad_()
        log_prob = pixel.log_prob(parameters, torch.full((1, 1, 1, 1), level))
        log_prob.sum().backward()
        assert log_prob.isfinite().all()
        assert parameters.grad is not None
        assert parameters.grad.isfinite().all()


@MODELS
def test_it_learns(model: type[PixelByPixel]) -> None:
    torch.manual_seed(0)
    x = torch.randint(4, (64, 1, 1, 1), dtype=torch.uint8).expand(64, 1, 4, 4).contiguous()  # one grey each
    made = model((1, 4, 4), 4, width=16, layers=2, components=2)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (-made.log_prob(x).mean()).backward()
        optimizer.step()
    assert -made.log_prob(x).mean() < 3  # of 22 nats; 1.4 are the entropy
    assert (made.sample(50).flatten(1).float().std(1) == 0).float().mean() > 0.6
    mode = made.sample(3, temperature=0)
    assert torch.equal(mode[0], mode[1])


def test_dropout_is_noise_of_training_that_can_be_given() -> None:
    model, x = (
        PixelCNN((1, 4, 4), 4, width=8, layers=2, dropout=0.5),
        torch.zeros(3, 1, 4, 4, dtype=torch.uint8),
    )
    noise = model.noise(3)
    assert noise is not None
    assert torch.equal(model.log_prob(x, noise=noise), model.log_prob(x, noise=noise))
    kept = model.log_prob(x, noise=torch.ones(3, 2, 8))
    assert not torch.allclose(kept, model.log_prob(x, noise=torch.zeros(3, 2, 8)))
    assert not torch.equal(model.log_prob(x), model.log_prob(x))
    assert model.eval().noise(3) is None
    assert torch.equal(model.log_prob(x), model.log_prob(x))


@MODELS
def test_there_is_no_bound_and_no_noise(model: type[PixelByPixel]) -> None:
    made = model((1, 4, 4), 4, width=8, layers=1)
    assert made.noise(3) is None
    assert made.sample(0).shape == (0, 1, 4, 4)
    assert made.log_prob(made.sample(0)).shape == (0,)
    with pytest.raises(UsageError, match="draws must be 1"):
        evaluate_log_probs(made, [(made.sample(2),)], draws=2)


@MODELS
def test_binary_images_are_measured_in_nats(model: type[PixelByPixel]) -> None:
    assert model((1, 4, 4), 3, width=8, layers=1).in_bits
    assert not model((1, 4, 4), 2, width=8, layers=1).in_bits


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"event_shape": (2,)}, "images"), ({"width": 0}, "width"), ({"layers": 0}, "layers"), ({"reach": 0}, "reach"),
        ({"grey_levels": 300}, "grey_levels"), ({"grey_levels": 1}, "grey_levels"), ({"grey_levels": "many"}, "grey_levels"),
        ({"components": 1.5}, "components"), ({"dropout": 1}, "dropout"), ({"dropout": -1}, "dropout"),
    ],
)  # fmt: skip
def test_refusals(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PixelCNN(**{"event_shape": (1, 8, 8), "grey_levels": 17, **wrong})
    if not {"reach", "dropout"} & set(wrong):
        with pytest.raises(UsageError, match=message):
            PixelRNN(**{"event_shape": (1, 8, 8), "grey_levels": 17, **wrong})


def test_other_values_are_refused() -> None:
    model = PixelCNN((1, 2, 2), 4, width=8, layers=1)
    for x in (torch.full((1, 1, 2, 2), 4), torch.zeros(1, 1, 2, 2)):
        with pytest.raises(UsageError, match="integers from 0 to 3"):
            model.log_prob(x)


def test_completions_can_be_watched_row_by_row_and_ended() -> None:
    made, seen = PixelCNN((1, 3, 2), 3, width=8, layers=2), []
    missing = torch.tensor([[False, False], [True, True], [True, True]])
    image = torch.full((1, 3, 2), 2)

    def watch(rows: int, images: Tensor) -> None:
        seen.append(rows)
        assert (images[:, :, 0] == 2).all()
        if len(seen) == 5:
            raise KeyboardInterrupt

    assert made.complete(image, missing, 2, progress=watch).shape == (2, 1, 3, 2)
    assert seen == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt):
        made.complete(image, missing, 2, progress=watch)
    assert seen == [0, 1, 2, 0, 1]
