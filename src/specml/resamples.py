"""Scores of many resamples of the same rows: prepared once, so that a resample costs next to nothing.

Each gives a function of row indices, equal to scikit-learn's of those rows but for the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from specml.evidence import ABSTAINED

if TYPE_CHECKING:
    import numpy as np

    from specml.evidence import Evidence

Statistic = Callable[[Any], float]
"""Of the indices of rows, int64 [m]."""

EPSILON = 1e-15
"""Probabilities are kept this far from 0 and 1 in the log loss, which is infinite there."""
SMALLEST = 2.220446049250313e-16
"""By what a relative error is divided at least: the double's epsilon, as in scikit-learn."""


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Σ a b, on one thread: BLAS wakes others for it, which cost more than they do."""
    return float((a * b).sum())


def mean_over(values: np.ndarray, weight: np.ndarray | None) -> Statistic:
    """The weighted mean of ``values`` [n] over any of these rows; what is NaN is left out."""
    import numpy as np

    unknown = np.isnan(values)
    if unknown.any():
        values = np.where(unknown, 0.0, values)
        weight = np.where(unknown, 0.0, 1.0 if weight is None else weight)
    if weight is None:
        return lambda rows: float(values[rows].mean())

    def weighted(rows: np.ndarray) -> float:
        total = weight[rows].sum()
        return _dot(values[rows], weight[rows]) / float(total) if total > 0 else float("nan")

    return weighted


def pinball(y: np.ndarray, scores: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
    """float64 [n]: of each row the mean pinball loss of its quantiles ``scores`` [n, q] (Koenker & Bassett 1978)."""
    import numpy as np

    missed = y[:, None] - scores
    levels = np.array(quantiles)
    return np.asarray(np.maximum(levels * missed, (levels - 1) * missed).mean(axis=1))


def hits(y: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """float64 [n]: 1 where the class ``y`` is among the ``k`` of the largest ``scores`` [n, classes]."""
    import numpy as np

    best = np.argsort(scores, axis=1, kind="mergesort")[:, ::-1][:, :k]
    return np.asarray((best == y[:, None]).any(axis=1).astype(float))


def _log_loss(y: np.ndarray, scores: np.ndarray) -> np.ndarray:
    import numpy as np

    kept = np.clip(scores, EPSILON, 1 - EPSILON)
    if kept.ndim == 1:
        return np.asarray(-np.log(np.where(y == 1, kept, 1 - kept)))
    return np.asarray(-np.log(kept[np.arange(len(y)), y]))


def _brier(y: np.ndarray, scores: np.ndarray) -> np.ndarray:
    import numpy as np

    if scores.ndim == 1:
        return np.asarray((scores - y) ** 2)
    return np.asarray((scores**2).sum(axis=1) - 2 * scores[np.arange(len(y)), y] + 1)


def _squared_log(y: np.ndarray, scores: np.ndarray) -> np.ndarray:
    import numpy as np

    out = np.full(len(y), np.nan)
    if len(y) and min(y.min(), scores.min()) > -1:
        out = (np.log1p(y) - np.log1p(scores)) ** 2
    return out


def _relative(y: np.ndarray, scores: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.asarray(np.abs(y - scores) / np.maximum(np.abs(y), SMALLEST))


EACH: dict[str, Callable[[Any, Any], Any]] = {
    "log_loss": _log_loss,
    "brier_score": _brier,
    "mean_absolute_error": lambda y, scores: abs(scores - y),
    "mean_squared_error": lambda y, scores: (scores - y) ** 2,
    "root_mean_squared_error": lambda y, scores: (scores - y) ** 2,
    "mean_squared_log_error": _squared_log,
    "root_mean_squared_log_error": _squared_log,
    "mean_absolute_percentage_error": _relative,
    "top_k_accuracy": lambda y, scores: hits(y, scores, 2),
    "top_3_accuracy": lambda y, scores: hits(y, scores, 3),
    "top_5_accuracy": lambda y, scores: hits(y, scores, 5),
}
"""Metrics of scores that are a mean over rows, or its root: what each row adds."""


def losses(evidence: Evidence) -> np.ndarray:
    """What each row loses, float64 [n]: log loss, or the squared error of a prediction."""
    import numpy as np

    if evidence.task == "regression":
        return np.asarray((evidence.predicted - evidence.y) ** 2)
    return _log_loss(evidence.y, evidence.scores)


def area(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None) -> Statistic:
    """The area under the ROC curve as the share of pairs in order, ties counting half (Mann & Whitney 1947).

    The scores are sorted once; a resample only counts how often each row is in it.
    """
    import numpy as np

    found = _area(np.arange(len(y)), y == 1, scores, weight)
    return lambda rows: found(np.bincount(rows, minlength=len(y)))


def average_precision(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None) -> Statistic:
    """The mean of precisions over thresholds, each by how much recall it adds."""
    import numpy as np

    counted = _counted(np.arange(len(y)), y == 1, scores, weight)

    def found(rows: np.ndarray) -> float:
        above, below = (one[::-1] for one in counted(np.bincount(rows, minlength=len(y))))
        true, every = np.cumsum(above), np.cumsum(above + below)
        if not true[-1] > 0 or not every[-1] > true[-1]:
            return float("nan")
        return _dot(above, true / np.maximum(every, SMALLEST)) / float(true[-1])

    return found


def _counted(
    among: np.ndarray, positive: np.ndarray, scores: np.ndarray, weight: np.ndarray | None
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """What positive and negative rows ``among`` all weigh at each of the different scores, from the lowest on.

    A function of how often each row is there, int64 [n].
    """
    import numpy as np

    among = among[np.argsort(scores[among], kind="stable")]
    ordered, up = scores[among], positive[among]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    heavy = np.ones(len(among)) if weight is None else weight[among]

    def counted(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        counts = times[among] * heavy
        above = counts * up
        return np.add.reduceat(above, starts), np.add.reduceat(counts - above, starts)

    return counted


def _area(
    among: np.ndarray, positive: np.ndarray, scores: np.ndarray, weight: np.ndarray | None
) -> Callable[[np.ndarray], float]:
    import numpy as np

    counted = _counted(among, positive, scores, weight) if len(among) else None

    def found(times: np.ndarray) -> float:
        above, below = counted(times) if counted else (np.zeros(1), np.zeros(1))
        pairs = above.sum() * below.sum()
        return _dot(above, np.cumsum(below) - below / 2) / float(pairs) if pairs > 0 else float("nan")

    return found


def areas(
    y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None, *, weighed: bool, pairs: bool = False
) -> Statistic:
    """The mean over classes of each one's area against all others, or (``pairs``) over pairs of classes of theirs.

    ``weighed`` by how common the class, or the pair, is (Hand & Till 2001, *Machine Learning* 45:171-186, for pairs).
    NaN where a class is missing.
    """
    from itertools import combinations

    import numpy as np

    k, n = scores.shape[1], len(y)
    shares = scores / scores.sum(axis=1, keepdims=True)
    heavy = np.ones(n) if weight is None else weight
    sides: list[tuple[int, ...]] = [*combinations(range(k), 2)] if pairs else [(one,) for one in range(k)]
    parts = []
    for side in sides:
        among = np.flatnonzero(np.isin(y, side)) if pairs else np.arange(n)
        parts.append([_area(among, y == one, shares[:, one], weight) for one in side])

    def found(rows: np.ndarray) -> float:
        times, common = np.bincount(rows, minlength=n), np.bincount(y[rows], weights=heavy[rows], minlength=k)
        each = [float(np.mean([one(times) for one in part])) for part in parts]
        by = [float(common[list(side)].sum()) if weighed else 1.0 for side in sides]
        return float(np.dot(each, by) / np.sum(by))

    return found


def explained(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None, *, biased: bool) -> Statistic:
    """R²; of an error whose mean is taken off (``biased``) the explained variance."""
    import numpy as np

    heavy = np.ones(len(y)) if weight is None else weight
    centred = y - (y.mean() if len(y) else 0.0)  # keeps the difference of sums below from losing digits
    error = scores - y
    parts = np.stack([heavy, heavy * centred, heavy * centred**2, heavy * error, heavy * error**2], axis=1)

    def found(rows: np.ndarray) -> float:
        w, y1, y2, e1, e2 = parts[rows].sum(axis=0).tolist()
        spread = y2 - y1**2 / w if w > 0 else 0.0
        left = e2 - (e1**2 / w if biased and w > 0 else 0.0)
        return 1 - left / spread if spread > 0 else float("nan")

    return found


def beyond_prior(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None, name: str) -> Statistic:
    """The share of the ``name`` (log loss or Brier score) of the rows' own class frequencies that the model saves."""
    import numpy as np

    k = 2 if scores.ndim == 1 else scores.shape[1]
    each, heavy = mean_over(EACH[name](y, scores), weight), np.ones(len(y)) if weight is None else weight

    def found(rows: np.ndarray) -> float:
        counts = np.bincount(y[rows], weights=heavy[rows], minlength=k)
        p = counts / counts.sum()
        if name == "log_loss":
            usual = -float(np.sum(p[p > 0] * np.log(p[p > 0])))
        else:
            usual = (1 - float(p @ p)) * (0.5 if scores.ndim == 1 else 1.0)
        return 1 - each(rows) / usual if usual > 0 else float("nan")

    return found


def of_matrix(
    y: np.ndarray, decisions: np.ndarray, weight: np.ndarray | None, k: int, score: Callable[[Any], float]
) -> Statistic:
    """A score of decisions by their confusion matrix [k, k], true class by decided one; undecided rows are left out."""
    import numpy as np

    made = decisions != ABSTAINED
    cell = np.where(made, y * k + decisions, k * k)
    heavy = None if weight is None else np.where(made, weight, 0.0)

    def found(rows: np.ndarray) -> float:
        counts = np.bincount(cell[rows], weights=None if heavy is None else heavy[rows], minlength=k * k + 1)
        matrix = counts[: k * k].reshape(k, k).astype(float)
        return score(matrix) if matrix.any() else float("nan")

    return found


def _ratio(a: Any, b: Any) -> Any:
    """``a / b``, and 0 where ``b`` is: what scikit-learn calls ``zero_division``."""
    import numpy as np

    return np.divide(a, b, out=np.zeros_like(np.asarray(a, dtype=float)), where=np.asarray(b) != 0)


def _present(matrix: np.ndarray) -> np.ndarray:
    """Without the classes that no row has or is given."""
    there = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    kept: np.ndarray = matrix[there][:, there]
    return kept


def _precision(matrix: Any) -> Any:
    return _ratio(matrix.diagonal(), matrix.sum(axis=0))


def _recall(matrix: Any) -> Any:
    return _ratio(matrix.diagonal(), matrix.sum(axis=1))


def _f1(matrix: Any) -> Any:
    return _ratio(2 * matrix.diagonal(), matrix.sum(axis=0) + matrix.sum(axis=1))


def _jaccard(matrix: Any) -> Any:
    return _ratio(matrix.diagonal(), matrix.sum(axis=0) + matrix.sum(axis=1) - matrix.diagonal())


def _balanced(matrix: Any) -> float:
    there = matrix.sum(axis=1) > 0
    return float(_recall(matrix)[there].mean())


def _matthews(matrix: Any) -> float:
    true, decided, n = matrix.sum(axis=1), matrix.sum(axis=0), matrix.sum()
    spread = (n**2 - decided @ decided) * (n**2 - true @ true)
    return float((matrix.trace() * n - true @ decided) / spread**0.5) if spread > 0 else 0.0


def _kappa(matrix: Any) -> float:
    n = matrix.sum()
    expected = 1 - float(matrix.sum(axis=0) @ matrix.sum(axis=1)) / n**2
    return 1 - (1 - float(matrix.trace() / n)) / expected if expected > 0 else float("nan")


def _likelihood(matrix: Any, *, positive: bool) -> float:
    (tn, fp), (fn, tp) = matrix.tolist()
    above, below = (tp, fp) if positive else (fn, tn)
    return above * (tn + fp) / (below * (tp + fn)) if below and tp + fn else float("nan")


def _averaged(each: Callable[[Any], Any]) -> dict[str, Callable[[Any], float]]:
    """A score of each class, as that of class 1 and as a mean over the classes that are there."""

    def weighted(matrix: Any) -> float:
        support = matrix.sum(axis=1)
        return float(each(matrix) @ support / support.sum())

    return {
        "": lambda matrix: float(each(matrix)[1]),
        "_macro": lambda matrix: float(each(_present(matrix)).mean()),
        "_weighted": weighted,
    }


MATRIX: dict[str, Callable[[Any], float]] = {
    "accuracy": lambda matrix: float(matrix.trace() / matrix.sum()),
    "zero_one_loss": lambda matrix: 1 - float(matrix.trace() / matrix.sum()),
    "balanced_accuracy": _balanced,
    "matthews_corrcoef": _matthews,
    "cohen_kappa": _kappa,
    "positive_likelihood_ratio": lambda matrix: _likelihood(matrix, positive=True),
    "negative_likelihood_ratio": lambda matrix: _likelihood(matrix, positive=False),
    **{
        name + suffix: score
        for name, each in (("precision", _precision), ("recall", _recall), ("f1", _f1), ("jaccard", _jaccard))
        for suffix, score in _averaged(each).items()
    },
}
"""Metrics of decisions: what each is of a confusion matrix [k, k]."""
