"""Missing pixels, drawn from their distribution given the pixels that are seen."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor

from glow.bijections import Bijection, Composition, Gaussianize
from glow.bijections.base import sum_event
from glow.distributions.latent import LOG_2_PI
from glow.errors import UsageError, check_positive
from glow.evaluation.bits import bits_per_dim
from glow.evaluation.masks import check_mask
from glow.evaluation.mcmc import adapt_step, draw_like, hmc_step, state_at
from glow.evaluation.pictures import figure_to_tensor
from glow.flows.flow import Flow

COARSE_SHARE = 0.25
"""The share of the steps that are coarse."""

LEAPFROGS = 10
"""Leapfrogs of a coarse step, which therefore costs about ten times as much as a fine one."""

WIDTHS = (0.4, 0.04)
"""First and last standard deviation of the observation in the coarse stage; the range of grey levels is 1."""

ADAPTING = 0.7
"""The share of the fine steps in which step sizes adapt."""


class Completion(NamedTuple):
    """What ``complete`` drew, with a trace of K records, of which the first K' are of the coarse stage."""

    images: Tensor  # uint8 (n, C, H, W)
    steps: list[int]  # K: after how many steps; the first is 0
    trace: Tensor  # (K, n), bits/dim of the image as completed
    misfits: Tensor  # (K', n), grey levels
    acceptance: tuple[float, float]  # mean probability in the coarse and in the fine stage

    @property
    def misfit(self) -> Tensor:
        """Root mean square distance, in grey levels, of the seen pixels from what the latents decode to at the end
        of the coarse stage, before they are set (n,)."""
        return self.misfits[-1]

    def metrics(self) -> dict[str, Any]:
        """The last records and the acceptances as plain numbers, for a report."""
        coarse, fine = self.acceptance
        return {
            "steps": self.steps[-1],
            "bits_per_dim": self.trace[-1].tolist(),
            "misfit": self.misfit.tolist(),
            "acceptance": {"coarse": coarse, "fine": fine},
        }


def complete(
    flow: Flow,
    image: Tensor,
    missing: Tensor,
    *,
    n: int = 4,
    steps: int = 300,
    temperature: float = 1.0,
    y: Tensor | None = None,
    generator: torch.Generator,
    progress: Callable[[int, Tensor], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Completion:
    r"""Draw the missing pixels of an image from :math:`p(x_m \mid x_s)`, n times, by n Markov chains in two stages.

    Coarse: the latents, at first those of samples, follow the posterior given the seen pixels with noise,

    .. math:: \pi_\sigma(z) \propto N(z; 0, T^2) \, \exp(-\|x_s(z) - x_s\|^2 / 2\sigma^2),

    with :math:`\sigma` falling from 0.4 to 0.04 of the range: Hamiltonian Monte Carlo (Neal 2011, section 3), which gets
    the large shapes right. This density becomes too narrow to move in long before :math:`\sigma` is one grey level.

    Fine: the seen pixels are set, and the missing ones follow :math:`p(x_m, x_s)` itself by the Metropolis-adjusted
    Langevin algorithm (Roberts & Tweedie 1996); where the flow begins with ``Gaussianize``, in the numbers x behind it, whose
    density has no steps between grey levels. Each is moved in proportion to :math:`G_{ii}^{-1/2}, G = (\partial z /
    \partial x)^\top (\partial z / \partial x)`: its standard deviation given all others, were the flow linear, which is small
    in plain black and large in a texture.

    Step sizes adapt per chain to acceptances of 0.65 and 0.57 (Beskos et al. 2013; Roberts & Rosenthal 1998). The last
    steps do not adapt and leave :math:`p(x_m \mid x_s)` as it is. Proposals that are not finite are rejected.

    Args:
        flow: of integer images, in eval mode; its weights get no gradients.
        image: uint8 (C, H, W), grey levels; those of the missing pixels do not matter.
        missing: bool (H, W). The seen pixels are returned unchanged; each chain dequantizes them with noise of its own.
        n: number of completions.
        steps: Metropolis steps of both stages, at least 2.
        temperature: factor on the standard deviation of the latents, T, as in ``Flow.sample``.
        y: label of a class-conditional flow, one for all or n of them.
        generator: source of all that is random.
        progress: called after each step with the number of steps done and the images so far, uint8 (n, C, H, W).
        check: called before each evaluation of the density, of which a coarse step takes eleven; it may raise to end this.

    Raises:
        UsageError: an argument that cannot work.
    """
    check_positive("n", n, integer=True)
    check_positive("steps", steps, integer=True)
    check_positive("temperature", temperature)
    if steps < 2:
        raise UsageError(f"steps must be at least 2, got {steps}")
    if flow.dequantization is None or len(flow.event_shape) != 3:
        raise UsageError("only a flow of integer images can complete an image")
    if tuple(image.shape) != flow.event_shape:
        raise UsageError(f"image must have shape {flow.event_shape}, got {tuple(image.shape)}")
    if missing.dtype != torch.bool or missing.shape != image.shape[1:]:
        raise UsageError(
            f"missing must be bool {tuple(image.shape[1:])}, got {missing.dtype} {tuple(missing.shape)}"
        )
    check_mask(missing, "missing")
    if y is not None:
        y = y.to(flow.device)
        y = y.reshape(-1).expand(n) if y.numel() == 1 else y

    image, hidden = image.to(flow.device).expand(n, *image.shape), missing.to(flow.device).expand_as(image)
    z = flow.flatten(flow.sample_latents(n, temperature=temperature, generator=generator))
    noise = flow.noise(n, generator)
    assert noise is not None
    marginals, rest = _marginals(flow.bijection)
    seen = flow.dequantization(image, noise)[0]
    task = _Task(flow, marginals, rest, image, seen, noise, hidden, temperature, y, check)
    coarse, every = max(1, round(COARSE_SHARE * steps)), max(1, steps // 50)
    with torch.no_grad():
        values = task.generate(z)
        recorded, trace, misfits = [0], [task.bits(values)], [task.misfit(values)]
        stages: tuple[list[Tensor], list[Tensor]] = [], []
        for i, (values, accepted) in enumerate(_walk(task, z, coarse, steps - coarse, generator), start=1):
            stages[i > coarse].append(accepted)
            if i % every == 0 or i in (coarse, steps):
                recorded.append(i)
                trace.append(task.bits(values))
                misfits += [task.misfit(values)] if i <= coarse else []
            if progress:
                progress(i, task.images(values).cpu())
        images = task.images(values)
    acceptance = float(torch.stack(stages[0]).mean()), float(torch.stack(stages[1]).mean())
    return Completion(
        images.cpu(), recorded, torch.stack(trace).cpu(), torch.stack(misfits).cpu(), acceptance
    )


def trace_picture(completion: Completion) -> Tensor:
    """Bits/dim and misfit of every chain by step, uint8 (3, height, width); dotted: where the fine stage begins."""
    coarse = completion.steps[: len(completion.misfits)]
    figure = Figure(figsize=(10, 4), dpi=80, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(completion.steps, completion.trace.numpy())
    left.axvline(coarse[-1], color="grey", linestyle=":")
    left.set(title="the image as completed", xlabel="step", ylabel="bits/dim")
    right.plot(coarse, completion.misfits.numpy())
    right.set(title="the seen pixels before they are set", xlabel="step", ylabel="misfit in grey levels")
    right.set_ylim(0, None)
    return figure_to_tensor(figure)


class _Task(NamedTuple):
    """What is to be sampled: n images whose pixels are ``seen`` or ``hidden`` (n, C, H, W), as real values."""

    flow: Flow
    marginals: Bijection
    rest: Bijection
    image: Tensor  # grey levels
    seen: Tensor
    noise: Tensor  # of dequantization
    hidden: Tensor
    temperature: float
    y: Tensor | None
    check: Callable[[], None]

    def generate(self, z: Tensor) -> Tensor:
        """Latents (n, D) -> values (n, C, H, W)."""
        return self.flow.generate(self.flow.unflatten(z), self.y)

    def set(self, values: Tensor) -> Tensor:
        """The image as completed: the given values where pixels are hidden, the image elsewhere."""
        return torch.where(self.hidden, values.view_as(self.seen), self.seen)

    def images(self, values: Tensor) -> Tensor:
        """The grey levels of the image as completed (n, C, H, W)."""
        assert self.flow.dequantization is not None
        return torch.where(self.hidden, self.flow.dequantization.quantize(self.set(values)), self.image)

    def distance(self, values: Tensor) -> Tensor:
        """Sum of squares over the seen pixels (n,); not finite if any value is not."""
        return sum_event(((values - self.seen) * ~self.hidden).square())

    def misfit(self, values: Tensor) -> Tensor:
        """Root mean square over the seen pixels, grey levels (n,)."""
        assert self.flow.dequantization is not None
        return (self.distance(values) / sum_event(~self.hidden)).sqrt() * self.flow.dequantization.grey_levels

    def observed(self, z: Tensor, sigma: float) -> Tensor:
        """The coarse stage's log-density of latents (n, D), up to a constant."""
        self.check()
        prior = -0.5 * sum_event((z / self.temperature).square())
        return prior - 0.5 * self.distance(self.generate(z)) / sigma**2

    def exact(self, numbers: Tensor) -> Tensor:
        """The fine stage's log-density, that of the numbers behind the marginals (n, C, H, W), in nats (n,)."""
        self.check()
        return self._log_density(self.rest, numbers, self.temperature)

    def bits(self, values: Tensor) -> Tensor:
        """Bits/dim of the image as completed, its grey levels with always the same noise (n,)."""
        assert self.flow.dequantization is not None
        n = self.flow.dequantization.grey_levels
        level = ((self.set(values) + 0.5) * n).floor().clamp(0, n - 1)  # NaN stays NaN
        x = (level + self.noise) / n - 0.5
        correction = self.flow.dequantization.correction(x)
        log_density = self._log_density(self.flow.bijection, x, 1.0)
        return bits_per_dim(log_density + correction, self.flow.event_shape)

    def curvature(self, numbers: Tensor, generator: torch.Generator, probes: int = 4) -> Tensor:
        r"""Estimates of :math:`G_{ii}` (n, D): means of :math:`(v^\top \partial z / \partial x_i)^2` for normal v."""
        with torch.enable_grad():
            numbers = numbers.detach().requires_grad_()
            z = self.rest(numbers, self.flow.context(self.y, len(numbers)))[0].flatten(1)
            vs = [draw_like(z, torch.randn, generator) for _ in range(probes)]
            gradients = [torch.autograd.grad(z, numbers, v, retain_graph=True)[0].flatten(1) for v in vs]
        return torch.stack(gradients).square().mean(0)

    def _log_density(self, bijection: Bijection, x: Tensor, temperature: float) -> Tensor:
        z, log_det = bijection(x, self.flow.context(self.y, len(x)))
        z = z.flatten(1) / temperature
        return log_det - sum_event(0.5 * (z.square() + LOG_2_PI) + math.log(temperature))


def _marginals(bijection: Bijection) -> tuple[Bijection, Bijection]:
    """The ``Gaussianize`` with which a bijection begins, or else the identity, and what follows."""
    steps = list(bijection.steps) if isinstance(bijection, Composition) else []
    if steps and isinstance(steps[0], Gaussianize):
        return steps[0], Composition([cast(Bijection, step) for step in steps[1:]])
    return Composition([]), bijection


def _walk(
    task: _Task, z: Tensor, coarse: int, fine: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """The values (n, C, H, W) after every step, and the probabilities with which it was accepted (n,)."""
    size = z.new_full((len(z), 1), 0.2)
    for i in range(coarse):
        sigma = WIDTHS[0] * (WIDTHS[1] / WIDTHS[0]) ** (i / max(1, coarse - 1))
        observed = partial(task.observed, sigma=sigma)
        # What limits a step is the observation: sizes in units of sigma change little from step to step.
        state, accepted = hmc_step(observed, state_at(observed, z), size * sigma, LEAPFROGS, generator)
        z, size = state.position, adapt_step(size, accepted, 0.65, i)
        lost = ~(state.log_density.isfinite() & state.gradient.isfinite().all(1))
        if lost.any():  # without a gradient they would stay there for ever
            fresh = task.flow.sample_latents(len(z), temperature=task.temperature, generator=generator)
            z = torch.where(lost[:, None], task.flow.flatten(fresh), z)
        values = task.generate(z)
        yield values, accepted

    def density(numbers: Tensor) -> Tensor:
        return task.exact(numbers.view_as(values))

    state = state_at(density, task.marginals(task.set(values))[0].flatten(1))
    size, curvature = torch.full_like(size, 0.3), torch.zeros_like(state.position)
    for i in range(fine):
        adapting = i < ADAPTING * fine
        if adapting and i % 5 == 0:
            weight = max(0.1, 1 / (1 + i // 5))  # a running mean that forgets
            numbers = state.position.view_as(values)
            curvature = curvature.lerp(task.curvature(numbers, generator), weight)
            # The seen pixels, whose sizes are zero, stay.
            scale = task.hidden.flatten(1) * task.temperature * curvature.rsqrt()
        state, accepted = hmc_step(density, state, size * scale, 1, generator)
        if adapting:
            size = adapt_step(size, accepted, 0.57, i)
        yield task.marginals.inverse(state.position.view_as(values))[0], accepted
