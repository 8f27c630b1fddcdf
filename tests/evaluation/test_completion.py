"""Whether completions are draws from the conditional distribution, and what masks there are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from glow.bijections import Bijection, Composition, Gaussianize
from glow.distributions.dequantization import Dequantization
from glow.errors import UsageError
from glow.evaluation.completion import Completion, complete, trace_picture
from glow.evaluation.masks import parse_mask
from glow.flows import Flow, Glow

MEAN = torch.tensor([110.0, 120.0, 130.0, 140.0])
SD = torch.tensor([40.0, 30.0, 20.0, 35.0])
CORRELATION = torch.tensor([[1, 0.8, 0.3, 0.5], [0.8, 1, 0.4, 0.2], [0.3, 0.4, 1, -0.3], [0.5, 0.2, -0.3, 1]])
COVARIANCE = CORRELATION * SD[:, None] * SD


class Linear(Bijection):
    """z = W (x - mean), so that the four pixels of x are normal, at first in grey levels with MEAN and COVARIANCE."""

    def __init__(self, mean: Tensor = MEAN / 256 - 0.5, covariance: Tensor = COVARIANCE / 256**2) -> None:
        super().__init__()
        self.colour = nn.Parameter(torch.linalg.cholesky(covariance))
        self.mean = nn.Parameter(mean)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z = (x.flatten(1) - self.mean) @ torch.linalg.inv(self.colour).T
        return z.view_as(x), -self.colour.logdet().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = z.flatten(1) @ self.colour.T + self.mean
        return x.view_as(z), self.colour.logdet().expand(len(z))


class Sinh(Bijection):
    """z_1 = 4 x_1, z_2 = sinh(10 x_2 - 6 x_1): a Jacobian that varies. Not finite where x_2 > ``edge``."""

    def __init__(self, edge: float = math.inf) -> None:
        super().__init__()
        self.edge = edge
        self.scale = nn.Parameter(torch.tensor([4.0, 10.0, 6.0]))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b, c = self.scale
        first, second = x.unbind(-1)
        u = b * second - c * first
        log_det = (a.log() + b.log() + u.cosh().log()).flatten(1).sum(1)
        log_det = log_det.where((second <= self.edge).flatten(1).all(1), torch.nan)
        return torch.stack((a * first, u.sinh()), dim=-1), log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b, c = self.scale
        first = z[..., 0] / a
        second = (z[..., 1].asinh() + c * first) / b
        second = second.where(second <= self.edge, torch.nan)
        return torch.stack((first, second), dim=-1), z.new_zeros(len(z))


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def gaussian() -> Flow:
    return Flow(Linear(), (1, 2, 2), Dequantization(256)).eval()


@pytest.fixture
def flow() -> Flow:
    flow = Glow((1, 8, 8), 17, levels=1, depth=1, width=4)
    flow.initialize(torch.randint(17, (32, 1, 8, 8)))
    return flow.eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randint(17, (1, 8, 8), dtype=torch.uint8)


class TestTheDistribution:
    """Thousands of short chains, where the answer is known."""

    @pytest.mark.parametrize("temperature", [1.0, 0.5])
    @pytest.mark.parametrize("hidden", [[0], [2, 1], [0, 1, 3]])
    def test_of_a_normal_is_the_conditional_normal(
        self, gaussian: Flow, hidden: list[int], temperature: float
    ) -> None:
        image = torch.tensor([[[150, 100], [150, 120]]], dtype=torch.uint8)
        missing = torch.zeros(4, dtype=torch.bool)
        missing[hidden] = True
        n = 4000
        completion = complete(
            gaussian, image, missing.view(2, 2), n=n, steps=80, temperature=temperature, generator=source()
        )
        draws = completion.images.flatten(1)[:, missing] + 0.5

        seen = image.flatten()[~missing] + 0.5
        gain = COVARIANCE[missing][:, ~missing] @ torch.linalg.inv(COVARIANCE[~missing][:, ~missing])
        mean = MEAN[missing] + gain @ (seen - MEAN[~missing])
        covariance = COVARIANCE[missing][:, missing] - gain @ COVARIANCE[~missing][:, missing]
        sd = temperature * covariance.diag().sqrt()
        # Four standard errors, and what rounding to grey levels makes of it.
        assert ((draws.mean(0) - mean) / sd).abs().max() < 4 / math.sqrt(n) + 0.01
        error = draws.T.cov().reshape(covariance.shape) / (sd[:, None] * sd) - covariance * temperature**2 / (
            sd[:, None] * sd
        )
        assert error.abs().max() < 4 * math.sqrt(2 / n) + 0.01
        assert 0.4 < completion.acceptance[1] < 0.8

    def test_behind_marginals_it_is_the_conditional_normal_of_their_numbers(self) -> None:
        marginals = Gaussianize(1, 256)
        marginals.initialize(torch.empty(0), torch.linspace(1, 5000, 256)[None])
        with torch.no_grad():
            marginals.shift.fill_(-0.2)
            marginals.log_scale.fill_(0.3)
        bijection = Composition([marginals, Linear(torch.zeros(4), CORRELATION)])
        flow = Flow(bijection, (1, 2, 2), Dequantization(256)).eval()
        image = torch.tensor([[[150, 100], [240, 120]]], dtype=torch.uint8)
        missing = torch.tensor([[False, True], [True, False]])
        n = 4000
        completion = complete(flow, image, missing, n=n, steps=80, generator=source())
        assert (completion.images[:, 0, ~missing] == image[0, ~missing]).all()

        def numbers(images: Tensor) -> Tensor:
            return marginals((images + 0.5) / 256 - 0.5)[0].detach().flatten(1)

        hidden = missing.flatten()
        draws, seen = numbers(completion.images)[:, hidden], numbers(image[None])[0, ~hidden]
        gain = CORRELATION[hidden][:, ~hidden] @ torch.linalg.inv(CORRELATION[~hidden][:, ~hidden])
        covariance = CORRELATION[hidden][:, hidden] - gain @ CORRELATION[~hidden][:, hidden]
        assert (draws.mean(0) - gain @ seen).abs().max() < 4 / math.sqrt(n) + 0.01
        assert (draws.T.cov() - covariance).abs().max() < 4 * math.sqrt(2 / n) + 0.01
        assert 0.4 < completion.acceptance[1] < 0.8

    def test_counts_the_jacobian(self) -> None:
        """Given x_1, the distribution function of x_2 is Phi(sinh(10 x_2 - 6 x_1)): Kolmogorov and Smirnov's test."""
        flow = Flow(Sinh(), (1, 1, 2), Dequantization(256)).eval()
        image = torch.tensor([[[140, 0]]], dtype=torch.uint8)
        completion = complete(
            flow, image, torch.tensor([[False, True]]), n=4000, steps=80, generator=source()
        )
        x1, x2 = ((completion.images.double() + 0.5) / 256 - 0.5).flatten(1).T
        rank = torch.special.ndtr((10 * x2 - 6 * x1).sinh()).sort().values
        assert (rank - torch.linspace(0, 1, len(rank))).abs().max() < 1.95 / math.sqrt(4000) + 0.01

    def test_stays_where_the_density_is_finite(self) -> None:
        flow = Flow(Sinh(edge=0.05), (1, 1, 2), Dequantization(256)).eval()
        image = torch.tensor([[[140, 0]]], dtype=torch.uint8)
        completion = complete(flow, image, torch.tensor([[False, True]]), n=200, steps=60, generator=source())
        grey = completion.images[..., 1].float()
        assert grey.min() > 0  # what is not finite would be drawn black
        assert grey.max() < 0.56 * 256
        assert grey.std() > 5
        assert completion.trace[-1].isfinite().all()


class TestCompletions:
    @pytest.mark.parametrize("spec", ["left", "right", "top", "bottom", "centre", "random:0.3"])
    def test_keep_what_is_seen(self, flow: Flow, image: Tensor, spec: str) -> None:
        missing = parse_mask(spec, (1, 8, 8), source())
        images = complete(flow, image, missing, n=2, steps=2, generator=source()).images
        assert images.dtype == torch.uint8
        assert images.shape == (2, 1, 8, 8)
        assert (images[:, :, ~missing] == image[:, ~missing]).all()
        assert images.max() < 17

    def test_follow_from_the_generator_and_differ(self, flow: Flow, image: Tensor) -> None:
        missing = parse_mask("left", (1, 8, 8), source())
        first, again, other = (
            complete(flow, image, missing, n=2, steps=8, generator=source(seed)).images for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert not torch.equal(first[0], first[1])

    def test_can_be_watched_and_ended(self, flow: Flow, image: Tensor) -> None:
        missing, seen, checked = parse_mask("left", (1, 8, 8), source()), list[Tensor](), []

        def watch(done: int, images: Tensor) -> None:
            seen.append(images)
            assert done == len(seen)
            assert (images[:, :, ~missing] == image[:, ~missing]).all()

        def check() -> None:
            checked.append(len(seen))
            if len(checked) > 40:  # one request takes 28
                raise KeyboardInterrupt

        options = {"n": 2, "steps": 8, "progress": watch, "check": check}
        found = complete(flow, image, missing, **options, generator=source())  # type: ignore[arg-type]
        assert torch.equal(seen[-1], found.images)
        assert checked.count(0) == 1 + 10  # of the first coarse step
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            complete(flow, image, missing, **options, generator=source())  # type: ignore[arg-type]
        assert 0 < len(seen) < 8

    def test_do_not_depend_on_what_was_there(self, flow: Flow, image: Tensor) -> None:
        missing = parse_mask("left", (1, 8, 8), source())
        blank = image.masked_fill(missing, 0)
        first, second = (
            complete(flow, x, missing, n=2, steps=4, generator=source()).images for x in (image, blank)
        )
        assert torch.equal(first, second)

    def test_leave_the_flow_alone(self, flow: Flow, image: Tensor) -> None:
        before = {name: value.clone() for name, value in flow.named_parameters()}
        missing = parse_mask("centre", (1, 8, 8), source())
        with torch.no_grad():
            complete(flow, image, missing, n=1, steps=4, generator=source())
        for name, value in flow.named_parameters():
            assert torch.equal(value, before[name])
            assert value.grad is None
            assert value.requires_grad

    def test_fit_the_image_better_than_what_they_started_from(self) -> None:
        """A flow that has seen blocks of equal pixels, half of which are missing."""
        torch.manual_seed(0)
        flow = Glow((1, 8, 8), 17, levels=1, depth=2, width=8)
        level = torch.randint(2, 15, (256, 1, 4, 4)).repeat_interleave(2, -1).repeat_interleave(2, -2)
        images = (level + torch.randint(-1, 2, level.shape)).to(torch.uint8)
        flow.initialize(images)
        optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
        for batch in images.split(64) * 8:
            optimizer.zero_grad()
            (-flow.log_prob(batch).mean() / 64).backward()
            optimizer.step()
        missing = parse_mask("random:0.5", (1, 8, 8), source())
        done: list[int] = []
        completion = complete(
            flow.eval(), images[0], missing, n=3, steps=60, generator=source(),
            progress=lambda i, images: done.append(i),
        )  # fmt: skip
        assert done == list(range(1, 61))
        assert completion.trace.shape == (len(completion.steps), 3)
        assert completion.steps[0] == 0
        assert completion.steps[-1] == 60
        assert (completion.trace[-1] < completion.trace[0] - 0.2).all()
        assert completion.misfit.shape == (3,)
        assert (completion.misfit < 0.5 * completion.misfits[0]).all()
        assert set(completion.metrics()) == {"steps", "bits_per_dim", "misfit", "acceptance"}

    def test_are_of_the_class(self, image: Tensor) -> None:
        flow = Glow((1, 8, 8), 17, levels=1, depth=1, width=4, class_conditional=True, classes=3)
        flow.initialize(torch.randint(17, (32, 1, 8, 8)), torch.arange(32) % 3)
        nn.init.normal_(flow.bijection.top.given)  # type: ignore[union-attr]
        missing = parse_mask("left", (1, 8, 8), source())

        def run(y: Tensor | None) -> Tensor:
            return complete(flow.eval(), image, missing, n=2, steps=4, y=y, generator=source()).images

        one, same, mixed = run(torch.tensor([1])), run(torch.tensor(1)), run(torch.tensor([1, 2]))
        assert torch.equal(one, same)
        assert torch.equal(one[0], mixed[0])
        assert not torch.equal(one[1], mixed[1])
        for y in (torch.tensor([3]), torch.tensor([0, 1, 2])):
            with pytest.raises(UsageError, match="y must be one integer label from 0 to 2"):
                run(y)

    def test_say_what_is_wrong(self, flow: Flow, image: Tensor) -> None:
        missing = parse_mask("left", (1, 8, 8), source())

        def refused(match: str, x: Tensor = image, m: Tensor = missing, **options: float) -> None:
            with pytest.raises(UsageError, match=match):
                complete(flow, x, m, generator=source(), **options)  # type: ignore[arg-type]

        refused("image must have shape", x=image[:, :4])
        refused("images must be integers from 0 to 16", x=image.float())
        refused("images must be integers from 0 to 16", x=image + 17)
        refused("missing must be bool", m=missing.float())
        refused("missing must be bool", m=missing[:4])
        refused("missing declares every pixel", m=torch.ones_like(missing))
        refused("missing declares no pixel", m=torch.zeros_like(missing))
        refused("n must be", n=0)
        refused("steps must be at least 2", steps=1)
        refused("temperature must be", temperature=0.0)
        refused("not class-conditional", y=torch.tensor([1]))  # type: ignore[arg-type]

    def test_have_a_trace_to_look_at(self) -> None:
        completion = Completion(
            torch.zeros(2, 1, 8, 8, dtype=torch.uint8),
            [0, 1, 2, 3],
            torch.rand(4, 2),
            torch.rand(2, 2),
            (0.6, 0.5),
        )
        picture = trace_picture(completion)
        assert picture.dtype == torch.uint8
        assert picture.shape == (3, 320, 800)
        assert picture.float().std() > 10


class TestMasks:
    def test_with_names_are_where_they_say(self) -> None:
        left, right, top, bottom, centre = (
            parse_mask(name, (3, 8, 6), source()) for name in ("left", "right", "top", "bottom", "centre")
        )
        assert left.dtype == torch.bool
        assert left[:, :3].all()
        assert not left[:, 3:].any()
        assert torch.equal(right, ~left)
        assert top[:4].all()
        assert not top[4:].any()
        assert torch.equal(bottom, ~top)
        assert centre[2:6, 1:4].all()
        assert centre.sum() == 12

    @pytest.mark.parametrize("fraction", [0.25, 0.5, 0.9])
    def test_random_ones_have_their_fraction_and_seed(self, fraction: float) -> None:
        first, again, other = (
            parse_mask(f"random:{fraction}", (1, 20, 10), source(seed)) for seed in (0, 0, 1)
        )
        assert first.sum() == round(fraction * 200)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
    def test_may_be_pictures(self, tmp_path: Path, mode: str) -> None:
        expected = torch.zeros(4, 6, dtype=torch.bool)
        expected[1:3, 2:] = True
        values = expected.numpy().astype(np.uint8) * 255
        if mode == "I;16":
            picture = Image.fromarray(values.astype(np.uint16) * 257)
        else:
            picture = Image.fromarray(values).convert(mode)
        picture.save(tmp_path / "mask.png")
        assert torch.equal(parse_mask(str(tmp_path / "mask.png"), (1, 4, 6), source()), expected)

    def test_that_do_not_fit_are_refused(self, tmp_path: Path) -> None:
        Image.new("L", (6, 4), 255).save(tmp_path / "white.png")
        (tmp_path / "text.png").write_text("no picture")
        for spec, match in (
            ("lfet", "mask='lfet' is not one of left, .*random:FRACTION.*picture.*did you mean 'left'"),
            ("random:2", "mask='random:2' must be random:FRACTION"),
            ("random:half", "mask='random:half' must be random:FRACTION"),
            ("random:0.001", "declares no pixel missing"),
            (str(tmp_path / "white.png"), "declares every pixel"),
            (str(tmp_path / "text.png"), "mask=.*cannot be read as a picture"),
        ):
            with pytest.raises(UsageError, match=match):
                parse_mask(spec, (1, 4, 6), source())
        with pytest.raises(UsageError, match="mask=.*has 4x6 pixels .*the image 6x4"):
            parse_mask(str(tmp_path / "white.png"), (1, 6, 4), source())
