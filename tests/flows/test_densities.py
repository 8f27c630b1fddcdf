"""Densities that are no flows: the masked autoencoder and the variational autoencoder."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from glow.data import Digits
from glow.errors import UsageError
from glow.evaluation.bits import evaluate_log_probs
from glow.flows import VAE, MADEDensity
from glow.networks import MADE

AGNOSTIC = [(False, False), (True, False), (False, True), (True, True)]


def shaken(module: nn.Module, sd: float = 0.5) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += sd * torch.randn_like(parameter)
    return module.double().eval()


def all_images(pixels: int) -> Tensor:
    return torch.tensor(list(itertools.product([0, 1], repeat=pixels)), dtype=torch.uint8)


def digits() -> Tensor:
    data = Digits(name="digits", shape=[1, 8, 8], batch_size=64, grey_levels=2)
    data.setup("fit")
    return data.arrays("train")[0]


class TestMADE:
    @pytest.mark.parametrize(("order_agnostic", "connectivity_agnostic"), AGNOSTIC)
    def test_probabilities_of_all_images_sum_to_one(
        self, order_agnostic: bool, connectivity_agnostic: bool
    ) -> None:
        model = MADEDensity((1, 2, 4), 16, 2, order_agnostic, connectivity_agnostic, masks=3, grey_levels=2)
        shaken(model, 1.0)
        log_prob = model.log_prob(all_images(8).view(-1, 1, 2, 4))
        assert log_prob.std() > 0.1
        assert log_prob.logsumexp(0).item() == pytest.approx(0, abs=1e-9)

    @pytest.mark.parametrize(("order_agnostic", "connectivity_agnostic"), AGNOSTIC)
    def test_the_density_of_vectors_integrates_to_one(
        self, order_agnostic: bool, connectivity_agnostic: bool
    ) -> None:
        model = MADEDensity((2,), 16, 2, order_agnostic, connectivity_agnostic, masks=3)
        shaken(model, 0.3)
        axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
        mass = model.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
        assert mass.item() == pytest.approx(1, abs=2e-3)

    @pytest.mark.parametrize("random_degrees", [False, True])
    def test_the_jacobian_is_triangular_in_the_order_of_every_mask(self, random_degrees: bool) -> None:
        orders = torch.stack([torch.randperm(6) for _ in range(4)])
        network = MADE(6, 1, 32, 2, orders, random_degrees)
        shaken(network, 1.0)
        seen = []
        for k, order in enumerate(orders):
            jacobian = torch.autograd.functional.jacobian(
                lambda x, k=k: network(x[None], order=k)[0, :, 0], torch.randn(6, dtype=torch.float64)
            )
            by_place = (jacobian != 0)[order.argsort()][:, order.argsort()]
            assert not by_place.triu().any()
            assert by_place.any()
            seen.append(tuple(jacobian.flatten().tolist()))
        assert len(set(seen)) == 4

    def test_connectivities_differ_in_one_order(self) -> None:
        network = MADE(6, 1, 16, 2, torch.arange(6).expand(3, 6), random_degrees=True)
        masks = [tuple(network.hidden[1].masks[k].flatten().tolist()) for k in range(3)]
        assert len(set(masks)) == 3

    def test_training_takes_the_masks_in_turn_and_evaluation_their_mean(self) -> None:
        model = MADEDensity((3,), 16, order_agnostic=True, masks=3)
        shaken(model)
        x = torch.randn(4, 3, dtype=torch.float64)
        model.train()
        each = torch.stack([model.log_prob(x) for _ in range(3)])
        torch.testing.assert_close(model.log_prob(x), each[0])
        assert not torch.allclose(each[0], each[1])
        torch.testing.assert_close(model.eval().log_prob(x), each.logsumexp(0) - math.log(3))

    def test_samples_follow_the_probabilities(self) -> None:
        model = MADEDensity((1, 1, 3), 16, order_agnostic=True, masks=2, grey_levels=2)
        shaken(model, 1.0)
        x = model.sample(20_000, generator=torch.Generator().manual_seed(0))
        assert (tuple(x.shape), x.dtype) == ((20_000, 1, 1, 3), torch.uint8)
        index = (x.flatten(1).long() * torch.tensor([4, 2, 1])).sum(1)
        found = torch.bincount(index, minlength=8).double() / len(x)
        torch.testing.assert_close(
            found, model.log_prob(all_images(3).view(-1, 1, 1, 3)).exp(), atol=0.015, rtol=0
        )

    def test_samples_of_vectors_follow_the_density(self) -> None:
        model = MADEDensity((2,), 16, order_agnostic=True, masks=2)
        shaken(model, 0.3)
        x = model.sample(20_000, generator=torch.Generator().manual_seed(0))
        entropy = -model.log_prob(x).mean().item()
        axis = torch.linspace(-40, 40, 1201, dtype=torch.float64)
        log_prob = model.log_prob(torch.cartesian_prod(axis, axis))
        expected = -(log_prob.exp() * log_prob).sum().item() * (axis[1] - axis[0]).item() ** 2
        assert entropy == pytest.approx(expected, abs=0.03)

    def test_nothing_and_the_mode(self) -> None:
        for model in (MADEDensity((3,), 16), MADEDensity((1, 2, 2), 16, grey_levels=2)):
            shaken(model)
            assert model.sample(0).shape == (0, *model.event_shape)
            assert model.log_prob(model.sample(0)).shape == (0,)
            mode = model.sample(3, temperature=0)
            assert torch.equal(mode[0], mode[1])
            assert (model.log_prob(mode)[0] >= model.log_prob(model.sample(200)).median()).all()

    def test_refusals(self) -> None:
        with pytest.raises(
            UsageError, match="MADEDensity models binary images: grey_levels must be 2, got 17"
        ):
            MADEDensity((1, 8, 8), grey_levels=17)
        with pytest.raises(UsageError, match="masks must be an integer above zero"):
            MADEDensity((2,), masks=0)
        with pytest.raises(UsageError, match="two grey levels"):
            MADEDensity((1, 2, 2), grey_levels=2).log_prob(torch.full((1, 1, 2, 2), 3))

    def test_it_learns_the_digits(self) -> None:
        """Below what independent pixels reach."""
        x = digits()
        p = x.float().mean(0).clamp(0.01, 0.99)
        independent = -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1).mean().item()
        model = MADEDensity((1, 8, 8), 64, 1, grey_levels=2)
        assert fitted(model, x, 150) < independent - 3


def fitted(model: nn.Module, x: Tensor, steps: int) -> float:
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for i in range(steps):
        optimizer.zero_grad()
        loss = -model(x[torch.arange(i * 128, (i + 1) * 128) % len(x)]).mean()
        loss.backward()
        optimizer.step()
    return -model.eval()(x[:500]).mean().item()


POSTERIORS = ("gaussian", "iaf", "planar", "sylvester")


class TestVAE:
    @pytest.mark.parametrize("posterior", POSTERIORS)
    def test_the_bound_rises_to_the_likelihood_with_the_draws(self, posterior: str) -> None:
        """Against the exact likelihood of a two-dimensional latent, summed over a grid."""
        model = VAE((1, 2, 2), posterior, 2, 8, latents=2, context=3, grey_levels=2)
        shaken(model, 0.15)
        x = all_images(4).view(-1, 1, 2, 2)[:6]
        axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
        z = torch.cartesian_prod(axis, axis)
        with torch.no_grad():
            logits = model.decoder(z)[None]  # (1, G, D)
            bits = x.flatten(1)[:, None].double()
            likelihood = -nn.functional.softplus(torch.where(bits > 0, -logits, logits)).sum(2)
            exact = (likelihood + model.prior.log_prob(z)).logsumexp(1) + 2 * (axis[1] - axis[0]).log()
        one, many = (
            evaluate_log_probs(model, [(x,)], draws=k, bound=b) for k, b in ((300, "mean"), (2000, "iw"))
        )
        assert (one < exact - 1e-3).all()
        torch.testing.assert_close(many, exact, atol=0.08, rtol=0)

    @pytest.mark.parametrize("posterior", POSTERIORS)
    def test_every_part_learns(self, posterior: str) -> None:
        model = VAE((1, 8, 8), posterior, 2, 16, latents=4, context=5, grey_levels=2)
        x = digits()
        for _ in range(2):  # at first some of it is the identity
            optimizer = torch.optim.Adam(model.parameters(), 1e-2)
            optimizer.zero_grad()
            (-model(x[:32]).mean()).backward()
            optimizer.step()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        before = -model(x[:500]).mean().item()
        assert fitted(model, x, 60) < before - 5

    def test_the_posterior_depends_on_the_context(self) -> None:
        for posterior in ("iaf", "planar", "sylvester"):
            model = VAE((1, 8, 8), posterior, 2, 16, latents=4, context=5, grey_levels=2)
            shaken(model)
            z = torch.randn(3, 4, dtype=torch.float64)
            a, b = (model.posterior(z, torch.randn(3, 5, dtype=torch.float64))[0] for _ in range(2))
            assert not torch.allclose(a, b)

    def test_nothing_and_noise_of_a_generator(self) -> None:
        model = VAE((1, 8, 8), grey_levels=2)
        assert model.sample(0).shape == (0, 1, 8, 8)
        assert model.log_prob(torch.zeros(0, 1, 8, 8)).shape == (0,)
        x = model.sample(4)
        first, again = (model.log_prob(x, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(first, again)

    def test_samples(self) -> None:
        model = VAE((1, 8, 8), grey_levels=2)
        source = torch.Generator()
        x, again = (model.sample(5, generator=source.manual_seed(0)) for _ in range(2))
        assert torch.equal(x, again)
        assert (tuple(x.shape), x.dtype) == ((5, 1, 8, 8), torch.uint8)
        assert set(x.unique().tolist()) <= {0, 1}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"event_shape": (2,)}, "VAE models binary images"),
            ({"grey_levels": 17}, r"grey_levels 2, got shape \(1, 8, 8\) and grey_levels 17"),
            ({"posterior": "maf"}, "posterior='maf' is not one of gaussian, iaf, planar, sylvester"),
            ({"latents": 0}, "latents must be an integer above zero"),
            ({"posterior": "iaf", "latents": 1}, "two or more for posterior=iaf"),
        ],
    )
    def test_refusals(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            VAE(**{"event_shape": (1, 8, 8), "grey_levels": 2, **arguments})  # type: ignore[arg-type]
