"""Base distributions: what the latents of a flow follow."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from glow.bijections.base import Shape, sum_event
from glow.distributions.base import check_draw
from glow.errors import check_positive
from glow.seeds import draw

LOG_2_PI = math.log(2 * math.pi)


class Base(nn.Module, ABC):
    """The distribution of one latent tensor."""

    is_normal = False
    """Whether it is the standard normal; the diagnostics of latents are for it alone."""
    reparametrized = True
    """Whether samples are differentiable in the parameters, which reverse-KL training needs."""
    reach = (-2.5, 2.5)
    """The range of each latent in pictures."""

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """The log-density of z (B, ...): (B,), nats."""

    @abstractmethod
    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """``n`` draws (n, *shape), float32 on the generator's device unless parameters say otherwise.

        Args:
            n: how many, of at least zero.
            shape: of one.
            temperature: a factor on the spread, of at least zero.
            generator: the source; that of torch when absent.

        Raises:
            UsageError: n or temperature is negative, or no number.
        """


class StandardNormal(Base):
    """Independent standard normals.

    >>> StandardNormal().log_prob(torch.zeros(1, 2)).exp()  # 1 / (2 pi)
    tensor([0.1592])
    >>> StandardNormal().sample(2, (3, 4), temperature=0.7).shape
    torch.Size([2, 3, 4])
    """

    is_normal = True

    def log_prob(self, z: Tensor) -> Tensor:
        return sum_event(-0.5 * (z * z + LOG_2_PI))

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, *shape); temperature is the standard deviation."""
        check_draw(n, temperature)
        return temperature * draw(torch.randn, n, *shape, generator=generator)


class Uniform(Base):
    """Uniform on the unit cube. Its flow must end inside it, as ``Sigmoid`` makes one do.

    >>> Uniform().log_prob(torch.tensor([[0.5, 0.5], [0.5, 1.5]])).tolist()
    [0.0, -inf]
    """

    reach = (0.02, 0.98)

    def log_prob(self, z: Tensor) -> Tensor:
        inside = ((z >= 0) & (z <= 1)).flatten(1).all(1)
        return torch.where(inside, z.new_zeros(len(z)), -math.inf)

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, *shape); temperature scales the cube about its centre, and up to one at most."""
        check_draw(n, temperature)
        u = draw(torch.rand, n, *shape, generator=generator)
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
        # Without validation NaN gives NaN, which training reports with its place.
        t = torch.distributions.StudentT(self.log_degrees.exp(), validate_args=False)
        return sum_event(t.log_prob(z))

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, *shape); temperature is a factor. By Bailey's polar method (Mathematics of Computation 62, 1994)."""
        check_draw(n, temperature)
        u, v = draw(torch.rand, 2, n, *shape, generator=generator).to(self.log_degrees)
        degrees = self.log_degrees.exp()
        u = u.clamp(min=1e-7)  # at zero the square root has no derivative; one is never drawn
        radius = (degrees * torch.expm1(-2 / degrees * torch.log1p(-u))).sqrt()
        return temperature * radius * torch.cos(2 * math.pi * v)


class Mixture(Base):
    """A learned mixture of Gaussians with diagonal covariances, for data with separate modes.

    A flow and its inverse are continuous, so that a flow cannot tear one normal into separate modes; with several
    components it need not.

    Args:
        dimensions: D.
        components: K; their means start on a sphere of radius two standard deviations.

    >>> Mixture(2, components=1).sample(1, (2,), temperature=0.0).tolist()
    [[2.0, 0.0]]
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
        standard = (z[:, None] - self.means) * (-self.log_sds).exp()  # (B, K, D)
        each = -0.5 * (standard * standard + LOG_2_PI).sum(2) - self.log_sds.sum(1)
        return (self.logits.log_softmax(0) + each).logsumexp(1)

    def sample(
        self, n: int, shape: Shape, *, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """(n, D); temperature scales the components, not the distance between them."""
        check_draw(n, temperature)
        u = draw(torch.rand, n, generator=generator)
        cumulated = self.logits.softmax(0).cumsum(0).to(u)
        k = torch.searchsorted(cumulated[:-1].contiguous(), u).to(self.means.device)
        noise = draw(torch.randn, n, *shape, generator=generator).to(self.means)
        return self.means[k] + temperature * self.log_sds[k].exp() * noise
