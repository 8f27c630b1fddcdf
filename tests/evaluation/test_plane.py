"""What the panels of the plane show, and that the baselines are fair."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from scipy.stats import chi2
from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

from glow.bijections import Bijection
from glow.errors import UsageError
from glow.evaluation.plane import (
    RINGS,
    baselines,
    deformed_grid,
    density_on_grid,
    plane_figure,
    plane_picture,
    qq_points,
    ring_fractions,
)
from glow.flows import MAF, Flow, RealNVP

ENTROPY = math.log(2 * math.pi * math.e)
"""Of a standard normal in the plane, nats."""


class Shift(Bijection):
    """x = ``scale`` z + (1, 0)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - torch.tensor([1.0, 0.0])) / self.scale, -2 * self.scale.log().expand(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * self.scale + torch.tensor([1.0, 0.0]), 2 * self.scale.log().expand(len(z))


def normal(n: int, sd: float = 1.0, seed: int = 0) -> Tensor:
    return sd * torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def source() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def panels() -> list[Axes]:
    """Of a normal of standard deviation 1/2 around (1, 0), on data of twice that width."""
    data = torch.tensor([1.0, 0.0]) + normal(3000)
    return plane_figure(Flow(Shift(0.5), (2,)), data, source(), side=101).axes


def dots(panel: Axes) -> Tensor:
    return torch.from_numpy(np.asarray(panel.collections[0].get_offsets()))


class TestPanels:
    def test_there_are_six_and_those_of_the_data_share_their_limits(self, panels: list[Axes]) -> None:
        assert len(panels) == 6
        assert len({(p.get_xlim(), p.get_ylim()) for p in panels[:4]}) == 1

    def test_data_are_the_data(self, panels: list[Axes]) -> None:
        torch.testing.assert_close(dots(panels[0]).float(), torch.tensor([1.0, 0.0]) + normal(3000)[:2000])

    def test_the_density_is_that_of_the_flow_where_its_axes_say(self, panels: list[Axes]) -> None:
        image = panels[1].images[0]
        density, (x0, x1, y0, y1) = np.asarray(image.get_array()), image.get_extent()
        assert (x0, x1, y0, y1) == (*panels[0].get_xlim(), *panels[0].get_ylim())
        row, column = np.unravel_index(density.argmax(), density.shape)
        x, y = x0 + column / 100 * (x1 - x0), y0 + row / 100 * (y1 - y0)
        assert math.hypot(x - 1, y) < 0.1
        assert density.max() == pytest.approx(1 / (2 * math.pi * 0.25), rel=0.02)
        assert density.sum() * (x1 - x0) * (y1 - y0) / 100**2 == pytest.approx(1, abs=0.01)

    def test_samples_are_of_the_flow(self, panels: list[Axes]) -> None:
        samples = dots(panels[2])
        torch.testing.assert_close(samples.mean(0).float(), torch.tensor([1.0, 0.0]), atol=0.05, rtol=0)
        torch.testing.assert_close(samples.std(0).float(), torch.tensor([0.5, 0.5]), atol=0.03, rtol=0)

    def test_lines_are_those_of_the_flow(self, panels: list[Axes]) -> None:
        drawn = [np.asarray(line) for c in panels[3].collections for line in c.get_segments()]
        expected = deformed_grid(Flow(Shift(0.5), (2,))).flatten(0, 1).numpy()
        np.testing.assert_allclose(np.stack(drawn), expected)

    def test_latents_lie_in_and_outside_rings(self, panels: list[Axes]) -> None:
        z = dots(panels[4]).float()
        torch.testing.assert_close(z, 2 * normal(3000)[:2000])
        assert [p.get_radius() for p in panels[4].patches] == [1, 2]
        inside = ring_fractions(2 * normal(3000))
        title = panels[4].get_title()
        assert f"{100 * inside[1]:.1f} % and {100 * inside[2]:.1f} % of the data" in title
        assert "normal 39.3 % and 86.5 %" in title
        assert panels[4].get_aspect() == 1

    def test_squared_norms_are_those_of_the_latents(self, panels: list[Axes]) -> None:
        points, diagonal = panels[5].lines
        for drawn, expected in zip(points.get_data(), qq_points(2 * normal(3000)), strict=True):
            np.testing.assert_allclose(np.asarray(drawn), expected, rtol=1e-5)
        assert diagonal.get_slope() == 1


def test_the_picture_is_brightest_at_the_mode() -> None:
    """An untrained flow is a standard normal; its mode is to the left of and above the data's middle."""
    data = torch.tensor([[-1.0, 1.0], [3.0, 1.0], [-1.0, -3.0], [3.0, -3.0]])
    picture = plane_picture(MAF((2,)), data, source())
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 640, 960)
    panel = picture[:, :320, 320:640].float()
    rows, columns = torch.where(panel.amax(0) - panel.amin(0) > 30)  # text and frames are grey, this is not
    (top, bottom), (left, right) = ((i.min().item(), i.max().item()) for i in (rows, columns))
    panel = panel[:, top : bottom + 1, left : right + 1]
    yellow = torch.tensor([253.0, 231.0, 37.0])  # the upper end of the colour map
    y, x = torch.where((panel - yellow[:, None, None]).abs().sum(0) < 30)
    # The axes go from -1.6 to 3.6 and from -3.6 to 1.6.
    assert x.float().mean() / (right - left) == pytest.approx(1.6 / 5.2, abs=0.02)
    assert y.float().mean() / (bottom - top) == pytest.approx(1.6 / 5.2, abs=0.02)


def test_pictures_are_of_the_plane() -> None:
    with pytest.raises(UsageError, match=r"needs a flow of shape \(2,\), got \(3,\)"):
        plane_picture(RealNVP((3,)), torch.randn(5, 3), source())


@pytest.mark.parametrize("scale", [float("nan"), 1e30])
def test_a_flow_that_diverged_still_gives_a_picture(scale: float) -> None:
    assert plane_picture(Flow(Shift(scale), (2,)), normal(50), source(), side=20).shape == (3, 640, 960)


def test_the_grid_of_the_identity_is_regular() -> None:
    grid = deformed_grid(MAF((2,)), reach=2, lines=5, points=9)
    ticks, along = torch.arange(-2.0, 3), torch.linspace(-2, 2, 9)
    assert grid.shape == (2, 5, 9, 2)
    for axis, lines in enumerate(grid):
        torch.testing.assert_close(lines[..., axis], ticks[:, None].expand(5, 9))
        torch.testing.assert_close(lines[..., 1 - axis], along.expand(5, 9))


def test_the_grid_goes_from_latents_to_data() -> None:
    grid = deformed_grid(Flow(Shift(3.0), (2,)), reach=2)
    torch.testing.assert_close(grid.amin((0, 1, 2)), torch.tensor([1.0 - 6, -6]))
    torch.testing.assert_close(grid.amax((0, 1, 2)), torch.tensor([1.0 + 6, 6]))


def test_the_density_is_by_rows_of_y() -> None:
    density = density_on_grid(Flow(Shift(1.0), (2,)), (1.0, 2.0, 0.0, 2.0), side=3)
    expected = [math.exp(-0.5 * (dx**2 + y**2)) / (2 * math.pi) for y in (0, 1, 2) for dx in (0, 0.5, 1)]
    torch.testing.assert_close(density, torch.tensor(expected).view(3, 3))


def test_rings_hold_what_they_hold_of_a_standard_normal() -> None:
    n = 20_000
    inside, wide = ring_fractions(normal(n)), ring_fractions(normal(n, sd=2))
    for radius, share in RINGS.items():
        assert share == pytest.approx(chi2.cdf(radius**2, df=2))
        error = (share * (1 - share) / n) ** 0.5
        assert abs(inside[radius] - share) < 4 * error
        assert abs(wide[radius] - share) > 40 * error
    assert wide[2] == pytest.approx(RINGS[1], abs=0.015)  # two is one standard deviation of it


def test_qq_points_of_normal_latents_lie_on_the_diagonal() -> None:
    n = 20_000
    expected, observed = qq_points(normal(n))
    np.testing.assert_allclose(expected, chi2.ppf((np.arange(n) + 0.5) / n, df=2), rtol=1e-9)
    bulk = slice(0, int(0.99 * n))  # the last points are few and wander
    assert (observed - expected)[bulk].abs().max() < 0.3
    assert (qq_points(normal(n, sd=2))[1] / expected)[bulk].median() == pytest.approx(4, rel=0.05)


class TestBaselines:
    @pytest.fixture(scope="class")
    def train(self) -> Tensor:
        return normal(1000)

    @pytest.fixture(scope="class")
    def test(self) -> Tensor:
        return normal(5000, seed=1)

    @pytest.fixture(scope="class")
    def figures(self, train: Tensor, test: Tensor) -> dict[str, dict[str, Any]]:
        return baselines(train, test)

    def test_come_near_the_entropy_of_a_normal(
        self, figures: dict[str, dict[str, Any]], test: Tensor
    ) -> None:
        assert figures["gmm"]["components"] == 1
        truth = math.log(2 * math.pi) + test.square().sum(1).mean().item() / 2
        for name, excess in (("gmm", 0.01), ("kde", 0.04)):
            assert figures[name]["nll"] == pytest.approx(ENTROPY, abs=0.05)
            # What sampling adds is the same for the model and the truth: on these points none beats it.
            assert truth < figures[name]["nll"] < truth + excess
        # The log-density of a standard normal in the plane has standard deviation 1.
        assert figures["gmm"]["standard_error"] == pytest.approx(1 / 5000**0.5, rel=0.1)

    def test_the_kernels_figure_is_that_of_scikit_learn(
        self, figures: dict[str, dict[str, Any]], train: Tensor, test: Tensor
    ) -> None:
        kde = figures["kde"]
        log_prob = KernelDensity(bandwidth=kde["bandwidth"]).fit(train.double()).score_samples(test.double())
        assert kde["nll"] == pytest.approx(-log_prob.mean(), abs=1e-4)  # densities are good to 1e-4
        assert kde["standard_error"] == pytest.approx(log_prob.std(ddof=1) / 5000**0.5, rel=1e-3)

    def test_the_bandwidth_is_a_good_one(
        self, figures: dict[str, dict[str, Any]], train: Tensor, test: Tensor
    ) -> None:
        for factor in (0.5, 2):
            other = KernelDensity(bandwidth=factor * figures["kde"]["bandwidth"]).fit(train.double())
            assert -other.score(test.double()) / len(test) > figures["kde"]["nll"] + 0.01

    def test_more_points_than_choose_get_a_narrower_bandwidth(self, monkeypatch: pytest.MonkeyPatch) -> None:
        train, test = normal(800), normal(10, seed=1)
        monkeypatch.setattr("glow.evaluation.plane.SELECTION_POINTS", 100)
        scaled = baselines(train, test)["kde"]["bandwidth"]
        chosen = scaled / (0.8 * 100 / 800) ** (1 / 6)
        tried = train.double().numpy().std(0).mean() * np.logspace(-2, 0, 21)
        assert np.abs(tried - chosen).min() < 1e-6

    def test_two_far_clusters_are_two_components(self) -> None:
        means = torch.tensor([[-50.0, 0.0], [50.0, 0.0]]).repeat(300, 1)
        noise = normal(600, seed=1)
        gmm = baselines(means + normal(600), means + noise)["gmm"]
        truth = math.log(2 * math.pi) + math.log(2) + noise.square().sum(1).mean().item() / 2
        assert gmm["components"] == 2
        assert gmm["nll"] == pytest.approx(truth, abs=0.05)

    def test_the_test_points_choose_nothing(self) -> None:
        train = normal(100)
        figures = [baselines(train, test) for test in (normal(100, seed=1), normal(100, sd=9, seed=2))]
        for name, setting in (("kde", "bandwidth"), ("gmm", "components")):
            assert figures[0][name][setting] == figures[1][name][setting]
            assert figures[0][name]["nll"] + 1 < figures[1][name]["nll"]

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            (torch.randn(20, 3), torch.randn(20, 2), r"train must be 10 or more points.*got shape \(20, 3\)"),
            (torch.randn(20, 2), torch.randn(20), r"test must be 2 or more points.*got shape \(20,\)"),
            (torch.randn(9, 2), torch.randn(20, 2), r"train must be 10 or more points.*got shape \(9, 2\)"),
        ],
    )
    def test_points_are_of_the_plane(self, train: Tensor, test: Tensor, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            baselines(train, test)
