"""Models that are conditioned on an observation: what ``sample`` draws of them, and ``python evaluate.py c2st=true``."""

import math
import sys
import time
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from glow.commands.inputs import as_list
from glow.commands.session import Session
from glow.errors import UsageError, check_bool, check_positive

LEAST = 10
SAMPLES = 1000
"""Of either posterior, by default."""


def observation(session: Session) -> Tensor | None:
    """What ``observation`` says, or else the first one of the split, (K,); None of a model that is conditioned on none.

    Raises:
        UsageError: it is no list of K numbers, or the model is conditioned on none.
    """
    given, k = session.cfg.observation, session.density.observed
    if not k:
        if given is not None:
            raise UsageError(f"observation={given} was given, but this model is not conditioned on one")
        return None
    if given is None:
        assert session.data.y is not None
        x = session.data.y[0]
        print(
            f"given the first observation of the {session.data.split} split, {_rounded(x)}; or set observation="
        )
        return x
    values = as_list("observation", given)
    numbers = [
        v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    ]
    if len(values) != k or len(numbers) != k:
        raise UsageError(f"observation must be a list of {k} numbers, got {given}")
    return torch.tensor(numbers, dtype=torch.float32)


def known_posterior(session: Session, x: Tensor, n: int) -> dict[str, Tensor]:
    """Samples (n, D) of the known posterior given one observation (K,), under their name; none where the data knows none."""
    posterior = getattr(session.data.module, "posterior", None)
    return {} if posterior is None else {"known posterior": posterior(x, n, session.seed)}


def check_c2st(session: Session) -> None:
    """Refuse ``c2st=true`` where it cannot work, before anything is measured."""
    cfg = session.cfg
    check_bool("c2st", cfg.c2st)
    check_positive("observations", cfg.observations, integer=True)
    if not cfg.c2st:
        return
    if not session.density.observed or not hasattr(session.data.module, "posterior"):
        raise UsageError(
            "c2st=true needs a model that is conditioned on an observation, as experiment=posterior trains it, and data "
            "whose posterior is known"
        )
    if cfg.samples is not None:
        check_positive("samples", cfg.samples, integer=True)
        if cfg.samples < LEAST:
            raise UsageError(f"samples={cfg.samples}: c2st=true needs at least {LEAST} an observation")


def measure_c2st(session: Session, report: dict[str, Any]) -> None:
    """How well samples are told from those of the known posterior, at some observations of the split.

    Beside it the floor: two sets of the known posterior, which only chance tells apart.
    """
    from glow.evaluation.c2st import c2st  # slow to import

    session.without_graphs("c2st")
    flow, data = session.density, session.data
    n, start = session.cfg.samples or SAMPLES, time.monotonic()
    assert data.y is not None
    observations = data.y[: session.cfg.observations]
    each: dict[str, list[float]] = {"c2st": [], "floor": []}
    for i, x in enumerate(tqdm(observations, desc="c2st", delay=2, disable=not sys.stderr.isatty())):
        known, again = (data.module.posterior(x, 2 * n, session.seed + i)).split(n)
        drawn = flow.sample(n, y=x, generator=session.generator("c2st", i)).cpu()
        each["c2st"].append(c2st(known, drawn, session.seed))
        each["floor"].append(c2st(known, again, session.seed))
    means = {key: sum(values) / len(values) for key, values in each.items()}
    seconds = round(time.monotonic() - start, 1)
    report["c2st"] = {
        "mean": means["c2st"], "floor": means["floor"], "each": each["c2st"], "each_floor": each["floor"],
        "observations": observations.tolist(), "samples": n, "seconds": seconds,
    }  # fmt: skip
    print(
        f"classifier two-sample test of {n:,} samples at {len(observations)} observations: {means['c2st']:.3f} "
        f"({min(each['c2st']):.3f} to {max(each['c2st']):.3f}); of two sets of the known posterior {means['floor']:.3f}"
    )


def _rounded(x: Tensor) -> str:
    return f"[{','.join(f'{v:.4g}' for v in x.tolist())}]"
