"""The classifier two-sample test: whether two sets of samples can be told apart."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from glow.errors import UsageError

FOLDS = 5


def c2st(known: Tensor, drawn: Tensor, seed: int = 0) -> float:
    """The accuracy on held-out samples of a classifier that tells two sets apart: 0.5 if it cannot, 1 if always.

    A network with two hidden layers of 10 D units on values that are standardized by the first set, five-fold
    cross-validated (Lopez-Paz & Oquab 2017; Lueckmann et al. 2021, appendix M).

    Args:
        known: (N, D).
        drawn: (N, D), as many, or else accuracy would not be 0.5 for equal distributions.
        seed: decides the folds and the network's weights.

    Raises:
        UsageError: other shapes, fewer than ten samples, or values that are not finite.
    """
    if known.ndim != 2 or known.shape != drawn.shape or len(known) < 2 * FOLDS:
        raise UsageError(
            f"c2st needs two sets of ten or more samples, of one shape (N, D), got {tuple(known.shape)} and {tuple(drawn.shape)}"
        )
    both = torch.cat((known, drawn)).double().cpu()
    if not both.isfinite().all():
        raise UsageError("c2st needs samples that are finite")
    sd, mean = torch.std_mean(both[: len(known)], dim=0)
    hidden = 10 * known.shape[1]
    network = MLPClassifier((hidden, hidden), max_iter=1000, random_state=seed)
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        accuracies = cross_val_score(
            network, ((both - mean) / sd).numpy(), np.repeat([0, 1], len(known)), cv=folds
        )
    return float(accuracies.mean())
