"""Pictures of flows of points in the plane, and what simpler densities reach on the same points."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from glow.distributions.base import Distribution
from glow.errors import UsageError
from glow.evaluation.layers import latent_grid
from glow.evaluation.pictures import figure_to_tensor
from glow.flows.flow import Flow

RINGS = {radius: 1 - math.exp(-(radius**2) / 2) for radius in (1, 2)}
"""The radii of the rings, and the fraction of a standard normal in the plane that lies inside each."""

DOTS = 2_000
"""Points that are drawn as dots, at most."""

ENCODED = 10_000
"""Data points that are encoded, at most; fractions are then good to half a percent."""

COMPONENTS = (1, 2, 4, 8, 16, 32)
"""The numbers of components of Gaussian mixtures that are tried."""

SELECTION_POINTS = 2_000
"""Training points on which a bandwidth and a number of components are chosen, at most."""


def plane_picture(flow: Distribution, data: Tensor, generator: torch.Generator, side: int = 200) -> Tensor:
    """``plane_figure`` as a picture: uint8 (3, height, width)."""
    return figure_to_tensor(plane_figure(flow, data, generator, side))


@torch.no_grad()
def plane_figure(flow: Distribution, data: Tensor, generator: torch.Generator, side: int = 200) -> Figure:
    """Six panels: data, learned density, samples and a grid of latent lines in the space of the data; the latents of
    the data with rings at one and two standard deviations, and the quantiles of their squared norms. A density that
    is no flow has the first three.

    Args:
        flow: a flow, or other density, with event shape (2,).
        data: points (N, 2) that it was trained on, or held-out ones; they set the limits of the axes.
        generator: source of the samples.
        side: the density is computed at ``side`` x ``side`` points.

    Raises:
        UsageError: the flow is not one of points in the plane.
    """
    if flow.event_shape != (2,):
        raise UsageError(f"a density picture needs a flow of shape (2,), got {flow.event_shape}")
    data = data.cpu()
    low, high = data.amin(0), data.amax(0)
    margin = 0.15 * (high - low)
    (x0, y0), (x1, y1) = (low - margin).tolist(), (high + margin).tolist()
    density = density_on_grid(flow, (x0, x1, y0, y1), side)
    samples = flow.sample(min(len(data), DOTS), generator=generator).cpu()

    rows = 2 if isinstance(flow, Flow) else 1
    figure = Figure(figsize=(12, 4 * rows), dpi=80, layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False)
    ax_data, ax_density, ax_samples = panels[0]
    ax_data.set_title("data")
    ax_data.scatter(*data[:DOTS].T.numpy(), s=2)
    ax_density.set_title("density of the flow")
    ax_density.imshow(density.numpy(), origin="lower", extent=(x0, x1, y0, y1), aspect="auto", cmap="viridis")
    ax_samples.set_title("samples of the flow")
    ax_samples.scatter(*samples.T.numpy(), s=2)
    for panel in panels.flatten()[:4]:
        panel.set(xlim=(x0, x1), ylim=(y0, y1))
    if isinstance(flow, Flow):
        _draw_latents(flow, data, generator, *panels[1])
    return figure


def _draw_latents(
    flow: Flow, data: Tensor, generator: torch.Generator, ax_grid: Axes, ax_latents: Axes, ax_norms: Axes
) -> None:
    z = flow.encode(data[:ENCODED].to(flow.device, flow.dtype))[0].cpu()
    apart = ", half a standard deviation apart" if flow.base.is_normal else ""
    ax_grid.set_title(f"latent lines{apart}")
    for lines, colour in zip(deformed_grid(flow), ("tab:blue", "tab:orange"), strict=True):
        ax_grid.add_collection(LineCollection(list(lines.numpy()), colors=colour, linewidths=0.8))
    ax_latents.scatter(z[:DOTS, 0], z[:DOTS, 1], s=2)
    if flow.base.is_normal:
        shares, expected_shares = (
            " and ".join(f"{100 * share:.1f} %" for share in shares.values())
            for shares in (ring_fractions(z), RINGS)
        )
        ax_latents.set_title(
            f"latents: {shares} of the data lie within 1 and 2 sd\n(of a standard normal {expected_shares})",
            fontsize=10,
        )
        for radius in RINGS:
            ax_latents.add_patch(Circle((0, 0), radius, fill=False, color="black"))
        expected, observed = qq_points(z)
        # This order of arguments survives a flow that diverged: max(3.5, nan) is 3.5.
        reach = min(10.0, max(3.5, 1.05 * z.abs().max().item()))
        ax_latents.set(xlim=(-reach, reach), ylim=(-reach, reach))
    else:
        drawn = flow.sample_latents(len(z), generator=generator)[0].cpu()
        ax_latents.set_title("latents of the data, and draws of the base (orange)", fontsize=10)
        ax_latents.scatter(drawn[:DOTS, 0], drawn[:DOTS, 1], s=2, zorder=0)
        expected, observed = (v.double().square().sum(1).sort().values for v in (drawn, z))
    ax_latents.set(aspect="equal")

    ax_norms.set_title("squared norms of the latents")
    ax_norms.plot(expected.numpy(), observed.numpy(), ".", markersize=3)
    ax_norms.axline((0, 0), slope=1, color="black", linewidth=1)
    base = "chi-square, 2 degrees of freedom" if flow.base.is_normal else "draws of the base"
    ax_norms.set(xlabel=f"quantile of {base}", ylabel="quantile of the data")


@torch.no_grad()
def density_on_grid(flow: Distribution, box: tuple[float, float, float, float], side: int) -> Tensor:
    """The density of a flow with event shape (2,) at ``side`` x ``side`` points: (side, side), a row for each y, ascending.

    Args:
        flow: a flow, or other density.
        box: x from and to, y from and to.
        side: points along each side of the box.
    """
    x0, x1, y0, y1 = box
    xs, ys = torch.linspace(x0, x1, side), torch.linspace(y0, y1, side)
    points = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1).view(-1, 2)
    return flow.log_prob(points.to(flow.device, flow.dtype)).exp().view(side, side).cpu()


def scatter_picture(points: Mapping[str, Tensor]) -> Tensor:
    """Sets of points in the plane (N, 2) side by side under their names, on equal axes: uint8 (3, H, W)."""
    figure = Figure(figsize=(4 * len(points), 4), dpi=80, layout="constrained")
    panels = figure.subplots(1, len(points), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, x) in zip(panels, points.items(), strict=True):
        axes.scatter(*x[x.isfinite().all(1)].T.numpy(), s=2)
        axes.set_title(name)
    return figure_to_tensor(figure)


@torch.no_grad()
def deformed_grid(flow: Flow, reach: float | None = None, lines: int = 11, points: int = 401) -> Tensor:
    """The grid of ``latent_grid``, whose arguments these are, in the space of the data: (2, lines, points, 2)."""
    z = latent_grid(flow, reach, lines, points)
    return flow.decode([z.view(-1, 2).to(flow.device, flow.dtype)]).view_as(z).cpu()


def ring_fractions(z: Tensor) -> dict[int, float]:
    """The fraction of the latents z (N, 2) that lies within each radius of ``RINGS``, which has those of a standard
    normal.

    >>> ring_fractions(torch.tensor([[0.5, 0.0], [0.0, 1.5]]))
    {1: 0.5, 2: 1.0}
    """
    norm = z.norm(dim=1)
    return {radius: (norm < radius).float().mean().item() for radius in RINGS}


def qq_points(z: Tensor) -> tuple[Tensor, Tensor]:
    """Quantiles of the squared norms of the latents z (N, 2) and of a standard normal: the points of a QQ plot.

    Returns:
        (N,) expected and (N,) observed, ascending, at the probabilities (i - 1/2) / N. The expected ones are
        those of chi-square with two degrees of freedom, which is exponential with mean 2.
    """
    n = len(z)
    probability = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return -2 * torch.log1p(-probability), z.double().square().sum(1).sort().values


def baselines(train: Tensor, test: Tensor, seed: int = 0) -> dict[str, dict[str, Any]]:
    """What two classical densities reach on held-out points, to compare a flow with, see ``fit_baselines``.

    10,000 training and 10,000 test points take some 5 s on one core: up to 4 s for the choices, the rest for the
    kernel estimate, whose relative error is below 1e-4 and whose cost grows with both numbers.

    Args:
        train: points (N, 2), at least 10.
        test: points (M, 2), at least 2.
        seed: decides the subset and the mixture's starting points.

    Returns:
        "kde" and "gmm", each with "nll", the mean negative log-likelihood of the test points in nats per
        point, its "standard_error", and "bandwidth" (in the data's unit) or "components".

    Raises:
        UsageError: train or test has another shape or too few points.
    """
    _check_points("test", test, 2)
    kernels, mixture = fit_baselines(train, seed)
    held_out = test.double().cpu().numpy()
    with threadpool_limits(limits=1):
        return {
            "kde": _held_out(kernels, held_out) | {"bandwidth": kernels.bandwidth},
            "gmm": _held_out(mixture, held_out) | {"components": mixture.n_components},
        }


def fit_baselines(train: Tensor, seed: int = 0) -> tuple[KernelDensity, GaussianMixture]:
    """A kernel density estimate and a mixture of Gaussians; ``score_samples`` of each is the log-density of points.

    The first has one round Gaussian kernel for both axes, whose scales should therefore be similar, the second full
    covariances. Bandwidth and number of components are those with the best five-fold cross-validated likelihood on at
    most ``SELECTION_POINTS`` training points; both are then fitted to all N, for which the bandwidth is narrowed at the
    optimal rate N^(-1/6) (Scott 1992, section 6.2).

    Args:
        train: points (N, 2), at least 10.
        seed: decides the subset and the mixture's starting points.

    Raises:
        UsageError: train has another shape or too few points.
    """
    _check_points("train", train, 10)
    x = train.double().cpu().numpy()
    subset = np.random.default_rng(seed).permutation(x)[:SELECTION_POINTS]
    scale, sizes = x.std(0).mean(), [k for k in COMPONENTS if k <= len(subset) // 2]
    kernels, mixture = KernelDensity(rtol=1e-4), GaussianMixture(max_iter=500, random_state=seed)
    with threadpool_limits(limits=1):  # matrices this small take ten times as long with several threads
        bandwidth = _choose(kernels, "bandwidth", scale * np.logspace(-2, 0, 21), subset)
        bandwidth *= (0.8 * len(subset) / len(x)) ** (1 / 6)  # chosen with four fifths of the subset
        kernels.set_params(bandwidth=bandwidth).fit(x)
        mixture.set_params(n_components=_choose(mixture, "n_components", sizes, subset)).fit(x)
    return kernels, mixture


def _check_points(name: str, points: Tensor, least: int) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < least:
        raise UsageError(f"{name} must be {least} or more points (N, 2), got shape {tuple(points.shape)}")


def _choose(model: Any, name: str, values: Iterable[Any], x: NDArray[np.float64]) -> Any:
    """The value of a setting of the model with the best cross-validated likelihood."""
    search = GridSearchCV(model, {name: list(values)}, cv=5, refit=False).fit(x)
    return np.asarray(search.best_params_[name]).item()


def _held_out(model: Any, x: NDArray[np.float64]) -> dict[str, Any]:
    nll = -model.score_samples(x)
    return {"nll": float(nll.mean()), "standard_error": float(nll.std(ddof=1) / len(nll) ** 0.5)}
