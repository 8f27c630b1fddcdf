"""Missing pixels, drawn from what a flow of integer images makes of the ones that are seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glow.bijections.base import Shape, sum_event
from glow.errors import UsageError, check_positive, nearest
from glow.evaluation.bits import bits_per_dim
from glow.flow import LOG_2_PI, Flow

REGIONS: dict[str, Callable[[int, int], tuple[slice, slice]]] = {
    "left": lambda h, w: (slice(h), slice(w // 2)),
    "right": lambda h, w: (slice(h), slice(w - w // 2, w)),
    "top": lambda h, w: (slice(h // 2), slice(w)),
    "bottom": lambda h, w: (slice(h - h // 2, h), slice(w)),
    "centre": lambda h, w: (_middle(h), _middle(w)),
}
"""The masks with names: (H, W) -> the rows and columns that are missing."""

ACCEPTED = f"{', '.join(REGIONS)}, random:FRACTION with a fraction between 0 and 1, or a picture's path"

LEAPFROGS = 10
"""Leapfrog steps of one coarse step."""

COARSE_SHARE = 0.25
"""Share of the steps that are coarse; each costs LEAPFROGS times as much as a fine one."""

COARSE = (0.4, 0.04)
"""First and last width of the observation, as fractions of the range of grey levels."""

ADAPTING = 0.7
"""The share of the fine steps that set their sizes; the others keep them, and so the distribution is exact."""


Density = Callable[[Tensor], Tensor]
"""A log-density in nats, up to a constant: (n, D) -> (n,)."""


class Completion(NamedTuple):
    """What ``complete`` found. ``acceptance`` is the mean probability of acceptance in both stages."""

    images: Tensor  # uint8 (n, C, H, W)
    steps: list[int]  # K of them: after which steps the trace was taken, the first one 0
    trace: Tensor  # (K, n), bits/dim of the image as completed
    misfit_trace: Tensor  # (K', n) with K' <= K, grey levels, of the coarse stage
    acceptance: tuple[float, float]

    @property
    def misfit(self) -> Tensor:
        """Root mean square distance of the seen pixels from what the latents decode to before they are set (n,)."""
        return self.misfit_trace[-1]

    def figures(self) -> dict[str, Any]:
        """Plain numbers, for a report."""
        return {
            "bits_per_dim": self.trace[-1].tolist(),
            "bits_per_dim_at_start": self.trace[0].tolist(),
            "misfit": self.misfit.tolist(),
            "acceptance": {"coarse": self.acceptance[0], "fine": self.acceptance[1]},
            "steps": self.steps[-1],
        }


def parse_mask(spec: str, shape: Shape, generator: torch.Generator) -> Tensor:
    """The pixels that a mask's name, or its picture, declares missing.

    Args:
        spec: ``left``, ``right``, ``top``, ``bottom`` (that half is missing), ``centre`` (the middle half of both
            sides), ``random:0.5`` (that fraction of the pixels), or the path of a picture of the image's height
            and width in which the missing pixels are white.
        shape: (C, H, W) of the image.
        generator: chooses the random pixels.

    Returns:
        bool (H, W), True where a pixel is missing.

    Raises:
        UsageError: naming ``mask``: another name, a fraction that is none, a picture that cannot be read or has another
            size, or a mask in which no pixel is missing or none is seen.
    """
    _, h, w = shape
    missing = torch.zeros(h, w, dtype=torch.bool)
    kind, _, value = spec.partition(":")
    if spec in REGIONS:
        missing[REGIONS[spec](h, w)] = True
    elif kind == "random":
        try:
            fraction = float(value)
        except ValueError:
            fraction = math.nan
        if not 0 < fraction < 1:
            raise UsageError(f"mask={spec!r} must be random:FRACTION with a fraction between 0 and 1")
        order = torch.randperm(h * w, generator=generator, device=generator.device).cpu()
        missing.view(-1)[order[: round(fraction * h * w)]] = True
    elif Path(spec).is_file():
        missing = _white(spec)
        if missing.shape != (h, w):
            raise UsageError(
                f"mask={spec!r} has {missing.shape[0]}x{missing.shape[1]} pixels (height x width), the image {h}x{w}"
            )
    else:
        raise UsageError(f"mask={spec!r} is not one of {ACCEPTED}{nearest(spec, (*REGIONS, 'random:0.5'))}")
    _check_both(missing, f"mask={spec!r}")
    return missing


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
    progress: Callable[[int], None] | None = None,
) -> Completion:
    r"""Draw the missing pixels of an image from :math:`p(x_m \mid x_s)`, n times, as n Markov chains.

    Coarse stage, the first quarter of the steps: latents, which start as those of samples, follow

    .. math:: \pi_\sigma(z) \propto N(z; 0, T^2) \, \exp(-\|x_s(z) - x_s\|^2 / 2\sigma^2),

    the posterior when the seen pixels are observed with noise of standard deviation :math:`\sigma`, which falls from
    two fifths of the range to a twenty-fifth: Hamiltonian Monte Carlo (Neal 2011), whose long paths get the large
    shapes right. For smaller :math:`\sigma` this density is too narrow to move in; so the seen pixels are now set.

    Fine stage: the missing pixels follow :math:`p(x_m, x_s)` itself, the Jacobian included, by the Metropolis-adjusted
    Langevin algorithm (Roberts & Tweedie 1996). Every pixel is moved in proportion to
    :math:`1 / \sqrt{G_{ii}}, G = (\partial z / \partial x)^\top (\partial z / \partial x)`, its standard
    deviation given the others if the flow were linear: a fraction of a grey level in plain black, tens in a texture.

    Step sizes adapt per chain towards an acceptance of 0.65 and 0.57, and are kept for the last steps, which leave
    :math:`p(x_m \mid x_s)` invariant. The seen pixels have each chain's own dequantization noise, and come back as they
    were. Proposals with values that are not finite are rejected.

    Args:
        flow: of integer images, in eval mode; its weights get no gradients.
        image: uint8 (C, H, W), grey levels; what it has in the missing pixels does not matter.
        missing: bool (H, W).
        n: number of completions.
        steps: Metropolis steps, at least 2. A coarse one costs eleven evaluations of the flow and its gradient.
        temperature: factor on the standard deviation of the latents, T; see ``Flow.sample``.
        y: the label of a class-conditional flow (1,), or n of them (n,).
        generator: source of all that is random.
        progress: is called with the number of steps done.

    Raises:
        UsageError: an argument that cannot work.
    """
    check_positive("n", n, integer=True)
    check_positive("steps", steps, integer=True)
    check_positive("temperature", temperature)
    if flow.dequantize is None or len(flow.event_shape) != 3:
        raise UsageError("completing an image needs a flow of integer images")
    if tuple(image.shape) != flow.event_shape:
        raise UsageError(f"image must have shape {flow.event_shape}, got {tuple(image.shape)}")
    if missing.dtype != torch.bool or missing.shape != image.shape[1:]:
        raise UsageError(
            f"missing must be bool of shape {tuple(image.shape[1:])}, got {missing.dtype} {tuple(missing.shape)}"
        )
    if steps < 2:
        raise UsageError(f"steps must be at least 2, got {steps}")
    _check_both(missing, "missing")
    y = None if y is None else y.to(flow.device)
    y = y.reshape(-1).expand(n) if y is not None and y.numel() == 1 else y
    image, hidden = image.to(flow.device).expand(n, *image.shape), missing.to(flow.device).expand_as(image)
    noise = _random(torch.rand, tuple(image.shape), generator, flow)
    task = _Task(flow, flow.dequantize(image, noise=noise)[0], hidden, temperature, y)
    at, every, coarse = [0], max(1, steps // 50), max(1, round(COARSE_SHARE * steps))
    acceptance: list[list[Tensor]] = [[], []]

    z = torch.cat([z.flatten(1) for z in flow.draw(n, temperature=temperature, generator=generator)], dim=1)
    values = task.decode(z)
    trace, misfit = [task.bits(values)], [task.misfit(values)]
    for i, (values, accepted) in enumerate(_stages(task, z, coarse, steps - coarse, generator), start=1):
        acceptance[i > coarse].append(accepted)
        if i % every == 0 or i in (coarse, steps):
            at.append(i)
            trace.append(task.bits(values))
            if i <= coarse:
                misfit.append(task.misfit(values))
        if progress:
            progress(i)
    images, _ = flow.dequantize.inverse(task.set(values))
    return Completion(
        torch.where(hidden, images, image).cpu(),
        at,
        torch.stack(trace).cpu(),
        torch.stack(misfit).cpu(),
        tuple(float(torch.stack(stage).mean()) for stage in acceptance),
    )


def trace_picture(completion: Completion) -> Tensor:
    """Log-likelihood and misfit of every chain by step: uint8 (3, height, width)."""
    # Not pyplot: no global state, and no window system to choose a back end for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    coarse = len(completion.misfit_trace)
    figure = Figure(figsize=(10, 4), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot(completion.steps, completion.trace.numpy())
    left.axvline(completion.steps[coarse - 1], color="grey", linestyle=":")
    left.set(title="the image as completed", xlabel="step", ylabel="bits/dim")
    right.plot(completion.steps[:coarse], completion.misfit_trace.numpy())
    right.set(title="the seen pixels before they are set", xlabel="step", ylabel="misfit in grey levels")
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1)


class _Task(NamedTuple):
    """What all steps know: n chains of one image whose pixels are ``seen`` or ``hidden`` (n, C, H, W), as reals."""

    flow: Flow
    seen: Tensor
    hidden: Tensor
    temperature: float
    y: Tensor | None

    def decode(self, z: Tensor) -> Tensor:
        """Latents (n, D) -> values (n, C, H, W)."""
        with torch.no_grad():
            return self.generate(z)

    def generate(self, z: Tensor) -> Tensor:
        """As ``decode``, differentiable."""
        parts = z.split([math.prod(shape) for shape in self.flow.latent_shapes], dim=1)
        shaped = [p.unflatten(1, s) for p, s in zip(parts, self.flow.latent_shapes, strict=True)]
        return self.flow.generate(shaped, self.y)

    def set(self, values: Tensor) -> Tensor:
        """The image as completed: the seen pixels are what they are."""
        return torch.where(self.hidden, values.view_as(self.seen), self.seen)

    def distance(self, values: Tensor) -> Tensor:
        """Sum of squares over the seen pixels (n,)."""
        return sum_event(torch.where(self.hidden, 0.0, values - self.seen).square())

    def misfit(self, values: Tensor) -> Tensor:
        """Root mean square distance over the seen pixels, grey levels (n,)."""
        assert self.flow.dequantize is not None
        return (self.distance(values) / sum_event(~self.hidden)).sqrt() * self.flow.dequantize.levels

    def log_density(self, values: Tensor, temperature: float) -> Tensor:
        """Of real values (n, C, H, W) as the flow of latents N(0, temperature^2) has it, nats (n,)."""
        latents, total = self.flow.bijection(values, self.y)
        for z in latents if isinstance(latents, list) else [latents]:
            total = total - sum_event(0.5 * ((z / temperature).square() + LOG_2_PI) + math.log(temperature))
        return total

    def bits(self, values: Tensor) -> Tensor:
        """Bits/dim of the image as completed, with the level correction (n,)."""
        assert self.flow.dequantize is not None
        correction = math.prod(self.flow.event_shape) * math.log(self.flow.dequantize.levels)
        with torch.no_grad():
            return bits_per_dim(self.log_density(self.set(values), 1.0) - correction, self.flow.event_shape)

    def observed(self, sigma: float) -> Density:
        """The coarse stage's unnormalized log-density of latents (n, D)."""
        return lambda z: (
            -sum_event((z / self.temperature).square()) / 2 - self.distance(self.generate(z)) / (2 * sigma**2)
        )

    def exact(self, values: Tensor) -> Tensor:
        """The fine stage's: of all values (n, D), of which the hidden ones count."""
        return self.log_density(self.set(values), self.temperature)

    def precision(self, values: Tensor, generator: torch.Generator, probes: int = 4) -> Tensor:
        r"""Estimates of :math:`G_{ii}` (n, C, H, W): the mean of :math:`(v^\top \partial z / \partial x_i)^2`, v ~ N(0, 1)."""
        with torch.enable_grad():
            values = self.set(values).detach().requires_grad_()
            latents, _ = self.flow.bijection(values, self.y)
            z = torch.cat(
                [z.flatten(1) for z in (latents if isinstance(latents, list) else [latents])], dim=1
            )
            total = torch.zeros_like(values)
            for _ in range(probes):
                v = _random(torch.randn, z.shape, generator, z)
                total += torch.autograd.grad(z, values, v, retain_graph=True)[0].square()
        return total / probes


class _State(NamedTuple):
    """Where n chains are (n, D), the log-density there (n,) and its gradient (n, D)."""

    at: Tensor
    log_density: Tensor
    gradient: Tensor


def _stages(
    task: _Task, z: Tensor, coarse: int, fine: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Values (n, C, H, W) and probabilities of acceptance (n,) after each step, ``coarse`` and then ``fine`` of them."""
    size = z.new_full((len(z), 1), 0.2)
    for i in range(coarse):
        sigma = COARSE[0] * (COARSE[1] / COARSE[0]) ** (i / max(1, coarse - 1))
        density = task.observed(sigma)
        state, accepted = _move(density, _state(density, z), size * sigma, LEAPFROGS, generator)
        z, size = state.at, _adapted(size, accepted, 0.65, i)
        values = task.decode(z)
        yield values, accepted

    state = _state(task.exact, task.set(values).flatten(1))
    size, precision = z.new_full((len(z), 1), 0.3), torch.zeros_like(values)
    for i in range(fine):
        if i < ADAPTING * fine and i % 5 == 0:
            weight = max(0.1, 1 / (1 + i // 5))  # a running mean, which forgets slowly
            precision = precision.lerp(task.precision(state.at.view_as(values), generator), weight)
            scale = task.temperature * (task.hidden * precision.rsqrt()).flatten(1)
        state, accepted = _move(task.exact, state, size * scale, 1, generator)
        if i < ADAPTING * fine:
            size = _adapted(size, accepted, 0.57, i)
        yield state.at.view_as(values), accepted


def _move(
    density: Density, state: _State, step: Tensor, leapfrogs: int, generator: torch.Generator
) -> tuple[_State, Tensor]:
    """One Metropolis step along Hamiltonian paths; with a single leapfrog it is one of the Langevin algorithm.

    ``step`` (n, D) or (n, 1) is the leapfrog's length. Also returns the probabilities of acceptance (n,).
    """
    momentum = _random(torch.randn, state.at.shape, generator, state.at)
    energy, new = 0.5 * sum_event(momentum.square()) - state.log_density, state
    momentum = momentum + 0.5 * step * state.gradient
    for i in range(leapfrogs):
        new = _state(density, new.at + step * momentum)
        momentum = momentum + (1.0 if i < leapfrogs - 1 else 0.5) * step * new.gradient
    change = energy + new.log_density - 0.5 * sum_event(momentum.square())
    # A chain that started where the density is not finite takes the first step that leads out.
    change = torch.where(state.log_density.isfinite(), change, torch.inf)
    accepted = torch.where(new.log_density.isfinite() & ~change.isnan(), change.clamp(max=0).exp(), 0.0)
    taken = _random(torch.rand, accepted.shape, generator, accepted) < accepted
    pairs = zip(new, state, strict=True)
    return _State(*(torch.where(taken if a.dim() == 1 else taken[:, None], a, b) for a, b in pairs)), accepted


def _state(density: Density, at: Tensor) -> _State:
    with torch.enable_grad():
        at = at.detach().requires_grad_()
        value = density(at)
        (gradient,) = torch.autograd.grad(value.sum(), at)
    return _State(at.detach(), value.detach(), gradient)


def _adapted(size: Tensor, accepted: Tensor, target: float, i: int) -> Tensor:
    """Step sizes (n, 1) after step ``i``: larger where more than the target was accepted; quickly at first."""
    return size * ((0.2 + 0.5 * math.exp(-i / 5)) * (accepted - target)).exp()[:, None]


def _random(
    draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator, like: Tensor | Flow
) -> Tensor:
    """From the generator's device to that of ``like``, so that a CPU generator gives the same on every device."""
    return draw(*shape, generator=generator, device=generator.device).to(like.device, like.dtype)


def _middle(size: int) -> slice:
    start = (size - size // 2) // 2
    return slice(start, start + size // 2)


def _white(path: str) -> Tensor:
    """The white pixels of a picture of any mode: bool (H, W)."""
    try:
        with Image.open(path) as picture:
            # Pillow clips what has more than 8 bits when it makes it grey.
            deep = picture.mode.startswith(("I", "F"))
            grey = np.asarray(picture if deep else picture.convert("L"), dtype=np.float64)
    except OSError as error:
        raise UsageError(
            f"mask={path!r} cannot be read as a picture ({error}); accepted: {ACCEPTED}"
        ) from error
    return torch.from_numpy(grey > (grey.max() if deep else 255) / 2)


def _check_both(missing: Tensor, name: str) -> None:
    if missing.all() or not missing.any():
        which = "every pixel, which would be a sample of the flow," if missing.all() else "no pixel"
        raise UsageError(f"{name} declares {which} missing; there must be missing and seen ones")
