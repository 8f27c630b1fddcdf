"""Flows in continuous time: an ordinary differential equation instead of layers."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glow.bijections.base import Bijection, ieee_precision, sum_event
from glow.errors import check_choice, check_positive

if TYPE_CHECKING:  # networks import bijections
    from glow.networks import Velocity

State = tuple[Tensor, ...]

SOLVERS = ("dopri5", "rk4", "midpoint", "euler")
"""The first chooses its steps; the others take equal ones."""
FAILURES = ("underflow", "max_num_steps", "non-finite")
"""What torchdiffeq says where an equation is too stiff for the tolerance, or numbers are none."""
MOST_STEPS = 1000
"""Of ``dopri5``: with more, the result is not a number."""


class Continuous(Bijection):
    r"""z = x(1) of the solution of :math:`dx/dt = f(t, x)` that starts at the data, x(0) (Chen et al. 2018; Grathwohl et al. 2019).

    .. math:: \log |\det \partial z / \partial x| = \int_0^1 \mathrm{tr} \frac{\partial f}{\partial x} \, dt

    (theorem 1 of the first). The inverse solves the same equation from 1 to 0. The trace is exact, by D products of the
    Jacobian, or :math:`e^T (\partial f / \partial x) e` with a random probe e of mean zero and covariance one, the same during
    a solve, of which it is the mean (Hutchinson; the second, section 3.1).

    In training mode the *gradient* is that of the log-det minus ``kinetic`` :math:`\int |f|^2 dt` minus ``jacobian``
    :math:`\int |e^T \partial f / \partial x|^2 dt` (Finlay et al. 2020, section 3, with J e for its transpose, which has the
    same mean), so that paths become straight and need few steps. The value is the log-det alone.

    Args:
        velocity: f.
        solver: in training, one of ``SOLVERS``; else always ``dopri5``, because a network learns to profit from the errors of
            equal steps, with which densities would not integrate to one.
        steps: of a solver with equal ones.
        tolerance: of ``dopri5``, absolute and relative. It chooses its steps for a whole batch, so that an element's
            result depends on the others by some ten times as much.
        kinetic: see above.
        jacobian: see above.

    Raises:
        UsageError: naming the argument that does not fit.

    >>> from glow.networks import Velocity
    >>> f, x = Continuous(Velocity(2, 8, 1)), torch.ones(3, 2)
    >>> torch.allclose(f.inverse(f(x)[0])[0], x, atol=1e-3)
    True
    """

    kind = "continuous"

    def __init__(
        self,
        velocity: "Velocity",
        solver: str = "dopri5",
        steps: int = 8,
        tolerance: float = 1e-5,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("solver", solver, SOLVERS)
        check_positive("steps", steps, integer=True)
        check_positive("tolerance", tolerance)
        check_positive("kinetic", kinetic, zero=True)
        check_positive("jacobian", jacobian, zero=True)
        self.velocity, self.solver, self.steps, self.tolerance = velocity, solver, steps, tolerance
        self.kinetic, self.jacobian = kinetic, jacobian
        self.evaluations = 0
        """How often the last solve called the velocity."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,).

        Args:
            x: where the solution starts.
            context: K probes of the trace for each x (B, D, K), of which the mean is taken; with K = 0 there is no log-det
                but zeros. The trace is exact when absent.
        """
        return self._with_log_det(x, context, 0, 1)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, D) -> (B, D), log-det (B,); ``context`` as in ``forward``."""
        return self._with_log_det(z, context, 1, 0)

    def extra_repr(self) -> str:
        how = f"tolerance={self.tolerance:g}" if self.solver == "dopri5" else f"steps={self.steps}"
        return f"solver={self.solver}, {how}, kinetic={self.kinetic:g}, jacobian={self.jacobian:g}"

    def _with_log_det(self, x: Tensor, probes: Tensor | None, start: int, end: int) -> tuple[Tensor, Tensor]:
        b, d = x.shape
        if probes is None:  # the unit vectors, of which the sum is the trace
            e = torch.eye(d, dtype=x.dtype, device=x.device)[:, None].expand(d, b, d)
        else:
            e = probes.movedim(2, 0) / max(1, probes.shape[2]) ** 0.5
        penalized = self.training and torch.is_grad_enabled() and self.kinetic + self.jacobian > 0

        def derivative(t: Tensor, state: State) -> State:
            f, products = self.velocity.with_products(t, state[0], e)
            trace = (e * products).sum((0, 2))
            if not penalized:
                return f, trace
            penalty = self.kinetic * sum_event(f.square()) + self.jacobian * products.square().sum((0, 2))
            return f, trace, (end - start) * penalty

        zero = x.new_zeros(b)
        z, log_det, *penalties = self._solve((x, zero, *[zero] * penalized), derivative, start, end)
        for penalty in penalties:
            log_det = log_det - (penalty - penalty.detach())
        return z, log_det

    def _solve(
        self, state: State, derivative: Callable[[Tensor, State], State], start: int, end: int
    ) -> list[Tensor]:
        from torchdiffeq import odeint  # it takes a second to import, which other models need not wait for

        self.evaluations = 0
        x = state[0]
        if not len(x):
            return list(state)

        def counted(t: Tensor, state: State) -> State:
            self.evaluations += 1
            return derivative(t, state)

        times = torch.tensor([start, end], dtype=x.dtype, device=x.device)
        solver = self.solver if self.training else "dopri5"
        options = {"max_num_steps": MOST_STEPS} if solver == "dopri5" else {"step_size": 1 / self.steps}
        with ieee_precision(x.device):
            try:
                solution = odeint(
                    counted,
                    state,
                    times,
                    rtol=self.tolerance,
                    atol=self.tolerance,
                    method=solver,
                    options=options,
                )
                return [s[-1] for s in solution]
            except AssertionError as error:
                if not any(known in str(error) for known in FAILURES):
                    raise
                # As a result of the parameters, so that the step is skipped as for any loss that is not finite.
                none = sum(p.sum() for p in self.parameters()) * torch.nan
                return [s + none for s in state]
