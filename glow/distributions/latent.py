"""Base distributions: what the latents of a flow follow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from glow.bijections.base import Shape, sum_event
from glow.errors import check_positive

LOG_2_PI = math.log(2 * math.pi)


class Base(nn.Module, ABC):
    """The distribution of one latent tensor."""

    is_normal = False
    """Whether it is the standard normal, for which the diagnostics of latents are made."""
    reparametrized = True
    """Whether samples are differentiable in the parameters, which reverse-KL training needs."""
    reach = (-2.5, 2.5)
    """From where to where a picture of latent space goes."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of z (B, ...): (B,), nats."""

    @abstractmethod
    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """``n`` draws (n, *shape), float32 on the generator's device unless parameters say otherwise.

        Args:
            n: how many.
            shape: of one.
            temperature: a factor on the spread, above zero.
            generator: the source; that of torch when absent.
        """

    @staticmethod
    def _device(generator: torch.Generator | None) -> torch.device:
        return generator.device if generator is not None else torch.get_default_device()


class StandardNormal(Base):
    """Independent standard normals."""

    is_normal = True

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, ...) -> (B,)."""
        return -sum_event(0.5 * (z * z + LOG_2_PI))

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, *shape); temperature is the standard deviation."""
        return temperature * torch.randn(n, *shape, generator=generator, device=self._device(generator))


class Uniform(Base):
    """Uniform on the unit cube. Its flow must end inside it, as ``Sigmoid`` makes one do."""

    reach = (0.02, 0.98)

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, ...) -> zeros (B,), or -inf outside."""
        inside = ((z >= 0) & (z <= 1)).flatten(1).all(1)
        return torch.where(inside, z.new_zeros(len(z)), -math.inf)

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, *shape); temperature scales the cube about its centre, and up to one at most."""
        u = torch.rand(n, *shape, generator=generator, device=self._device(generator))
        return 0.5 + min(temperature, 1.0) * (u - 0.5)


class StudentT(Base):
    """Independent Student-t with one learned number of degrees of freedom, for data with heavy tails.

    Args:
        degrees: of freedom at the start.
    """

    def __init__(self, degrees: float = 5.0) -> None:
        super().__init__()
        check_positive("degrees", degrees)
        self.log_degrees = nn.Parameter(torch.tensor(math.log(degrees)))

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, ...) -> (B,)."""
        t = torch.distributions.StudentT(
            self.log_degrees.exp(), validate_args=False
        )  # NaN is for others to tell
        return sum_event(t.log_prob(z))

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, *shape); temperature is a factor. By Bailey's polar method (Mathematics of Computation 62, 1994)."""
        u, v = torch.rand(2, n, *shape, generator=generator, device=self._device(generator)).to(
            self.log_degrees
        )
        v_ = self.log_degrees.exp()
        u = u.clamp(min=1e-7)  # at zero the square root has no derivative; one is never drawn
        radius = (v_ * torch.expm1(-2 / v_ * torch.log1p(-u))).sqrt()
        return temperature * radius * torch.cos(2 * math.pi * v)


class Mixture(Base):
    """A learned mixture of Gaussians with diagonal covariances: as many pieces as the data has modes.

    A flow is continuous and its inverse, too, so that it cannot tear one normal into separate modes; from a base of
    several components it need not.

    Args:
        dimensions: D.
        components: K; their means start on a sphere of radius two standard deviations.
    """

    reparametrized = False

    def __init__(self, dimensions: int, components: int = 8) -> None:
        super().__init__()
        check_positive("components", components, integer=True)
        directions = torch.randn(components, dimensions)
        if dimensions == 2:
            angle = torch.arange(components) * (2 * math.pi / components)
            directions = torch.stack((angle.cos(), angle.sin()), dim=1)
        self.means = nn.Parameter(2 * directions / directions.norm(dim=1, keepdim=True))
        self.log_sds = nn.Parameter(torch.zeros(components, dimensions))
        self.logits = nn.Parameter(torch.zeros(components))

    def log_prob(self, z: Tensor) -> Tensor:
        """(B, D) -> (B,)."""
        standard = (z[:, None] - self.means) * (-self.log_sds).exp()  # (B, K, D)
        each = -0.5 * (standard * standard + LOG_2_PI).sum(2) - self.log_sds.sum(1)
        return (self.logits.log_softmax(0) + each).logsumexp(1)

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, D); temperature scales the components, not the distance between them."""
        device = self._device(generator)
        cumulated = self.logits.softmax(0).cumsum(0).to(device, torch.float32)
        k = torch.searchsorted(cumulated[:-1].contiguous(), torch.rand(n, generator=generator, device=device))
        noise = torch.randn(n, *shape, generator=generator, device=device).to(self.means)
        k = k.to(self.means.device)
        return self.means[k] + temperature * self.log_sds[k].exp() * noise
