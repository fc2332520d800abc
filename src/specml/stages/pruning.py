"""When a trial is not worth its other folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from specml.metrics import Metric

MARGIN = 0.35
"""By how much more error than the best's a trial is given up after one fold, as a share of the best's."""
CONFIDENCE = 0.95
"""Of the paired test, that of the races of irace (López-Ibáñez et al. 2016)."""


def hopeless(metric: Metric, scores: Sequence[float], best: Sequence[float]) -> bool:
    """Whether a trial with ``scores`` on the first folds need not go on, against the ``best``'s scores on every fold.

    After one fold: its error is larger than the best's by more than 35 % of it, and by more than the best's folds
    differ among themselves (their standard deviation), which a few rows may do where errors are rare. After more:
    a one-sided paired t-test over the finished folds says that it is behind (Maron & Moore 1994, races). The error
    is the distance to a perfect score, 1 or 0.
    """
    import numpy as np
    from scipy.stats import t

    behind = np.array([metric.gain(one, score) for score, one in zip(scores, best, strict=False)])
    if len(behind) == 1:
        error = metric.gain(1.0 if metric.larger_is_better else 0.0, best[0])
        return bool(behind[0] > MARGIN * error and behind[0] > np.std(best, ddof=1))
    spread = np.std(behind, ddof=1) / len(behind) ** 0.5
    return bool(behind.mean() > t.ppf(CONFIDENCE, len(behind) - 1) * spread)
