"""Scores by name, as scikit-learn defines them, with bootstrap intervals.

Names are known without importing scikit-learn, so that a spec can be checked at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from specml.evidence import ABSTAINED, MEDIAN, Interval, Serial

if TYPE_CHECKING:
    import numpy as np

    from specml.data import Task
    from specml.spec import Problem

ROUNDS = 400
"""Fewest bootstrap resamples."""
BEYOND = 10
"""Resamples that lie beyond each bound: at 95 % of 400, at 99 % of 2,000."""

PINBALL = "mean_pinball_loss"
"""The metric of quantiles."""

EPSILON = 1e-15
"""Probabilities are kept this far from 0 and 1 in the log loss, which is infinite there."""


@dataclass(frozen=True)
class Metric:
    """One score.

    ``of`` names what it judges: ``scores`` (probabilities or predictions) or ``decisions`` (labels). A score of
    decisions is that of the rows that are decided: see ``evidence.ABSTAINED``.
    """

    name: str
    function: str
    """The function of ``sklearn.metrics``."""
    tasks: tuple[Task, ...]
    larger_is_better: bool = True
    of: str = "scores"
    options: tuple[tuple[str, Any], ...] = ()
    quantiles: tuple[float, ...] = ()
    """Of which quantiles scores [n, q] are; () where they are no quantiles."""

    def at(self, quantiles: tuple[float, ...]) -> Metric:
        """The same of scores that are these quantiles: the pinball loss judges all, any other the median."""
        return replace(self, quantiles=quantiles)

    def measure(
        self, y: np.ndarray, scores: np.ndarray, decisions: np.ndarray | None, weight: np.ndarray | None = None
    ) -> float:
        """The score of predictions for ``y`` [n]; NaN where it is not defined: of one class only, of a NaN."""
        import warnings

        import numpy as np
        import sklearn.metrics

        judged = decisions if self.of == "decisions" else self._judged(scores)
        if judged is not None and self.of == "decisions" and (judged == ABSTAINED).any():
            made = judged != ABSTAINED
            y, judged, weight = y[made], judged[made], None if weight is None else weight[made]
        if judged is None or len(y) == 0 or not np.isfinite(judged).all():
            return float("nan")
        if self.name == PINBALL and self.quantiles:
            parts = zip(self.quantiles, judged.T, strict=True)
            return float(
                np.mean([sklearn.metrics.mean_pinball_loss(y, p, sample_weight=weight, alpha=a) for a, p in parts])
            )
        options = dict(self.options)
        if self.name == "log_loss":
            options["labels"] = np.arange(2 if scores.ndim == 1 else scores.shape[1])
            judged = np.clip(judged, EPSILON, 1 - EPSILON)
        if self.name == "roc_auc_ovr":
            options["labels"] = np.arange(scores.shape[1])
            judged = judged / judged.sum(axis=1, keepdims=True)
        if (
            self.of == "scores"
            and self.name in ("roc_auc", "average_precision", "roc_auc_ovr")
            and len(set(y.tolist())) < 2
        ):
            return float("nan")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = getattr(sklearn.metrics, self.function)(y, judged, sample_weight=weight, **options)
        return float(value)

    def over(
        self, y: np.ndarray, scores: np.ndarray, decisions: np.ndarray | None, weight: np.ndarray | None = None
    ) -> Callable[[np.ndarray], float]:
        """``measure`` of any of these rows, by their indices: for many resamples, prepared once where that can be.

        Equal to ``measure`` but for the rounding of sums.
        """
        judged = self._judged(scores)
        if self.name == PINBALL and self.quantiles:
            return mean_over(pinball(y, judged, self.quantiles), weight)
        if self.name == "roc_auc":
            return _area(y, judged, weight)
        each = _EACH.get(self.name)
        abstains = self.of == "decisions" and decisions is not None and bool((decisions == ABSTAINED).any())
        if each is None or abstains:

            def measured(rows: np.ndarray) -> float:
                chosen = (None if one is None else one[rows] for one in (decisions, weight))
                return self.measure(y[rows], scores[rows], *chosen)

            return measured
        if self.name == "root_mean_squared_error":
            squared = mean_over(each(y, judged, decisions), weight)
            return lambda rows: float(squared(rows) ** 0.5)
        return mean_over(each(y, judged, decisions), weight)

    def _judged(self, scores: np.ndarray) -> np.ndarray:
        """The scores that it judges: of quantiles the median alone, unless it judges them all."""
        alone = self.quantiles and self.name != PINBALL
        return scores[:, self.quantiles.index(MEDIAN)] if alone else scores

    def gain(self, value: float, other: float) -> float:
        """By how much ``value`` is better than ``other``; positive is better whatever the metric's sign."""
        return value - other if self.larger_is_better else other - value


def pinball(y: np.ndarray, scores: np.ndarray, quantiles: tuple[float, ...]) -> np.ndarray:
    """float64 [n]: of each row the mean pinball loss of its quantiles ``scores`` [n, q] (Koenker & Bassett 1978)."""
    import numpy as np

    missed = y[:, None] - scores
    levels = np.array(quantiles)
    return np.asarray(np.maximum(levels * missed, (levels - 1) * missed).mean(axis=1))


def _log_loss(y: np.ndarray, scores: np.ndarray, _: Any) -> np.ndarray:
    import numpy as np

    kept = np.clip(scores, EPSILON, 1 - EPSILON)
    if kept.ndim == 1:
        return np.asarray(-np.log(np.where(y == 1, kept, 1 - kept)))
    return np.asarray(-np.log(kept[np.arange(len(y)), y]))


_EACH: dict[str, Callable[[Any, Any, Any], Any]] = {
    "log_loss": _log_loss,
    "brier_score": lambda y, scores, _: (scores - y) ** 2,
    "accuracy": lambda y, _, decisions: (y == decisions).astype(float),
    "mean_absolute_error": lambda y, scores, _: abs(scores - y),
    "root_mean_squared_error": lambda y, scores, _: (scores - y) ** 2,
}
"""Metrics that are a mean over rows (or its root): what each row adds."""


def mean_over(values: np.ndarray, weight: np.ndarray | None) -> Callable[[np.ndarray], float]:
    """The weighted mean of ``values`` [n] over any of these rows, by their indices; what is NaN is left out."""
    import numpy as np

    unknown = np.isnan(values)
    if unknown.any():
        values = np.where(unknown, 0.0, values)
        weight = np.where(unknown, 0.0, 1.0 if weight is None else weight)
    if weight is None:
        return lambda rows: float(values[rows].mean())

    def weighted(rows: np.ndarray) -> float:
        total = weight[rows].sum()
        return float(values[rows] @ weight[rows] / total) if total > 0 else float("nan")

    return weighted


def _area(y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None) -> Callable[[np.ndarray], float]:
    """The area under the ROC curve as the share of pairs in order, ties counting half (Mann & Whitney 1947).

    The scores are sorted once; a resample only counts how often each row is in it.
    """
    import numpy as np

    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], y[order] == 1
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    heavy = np.ones(len(y)) if weight is None else weight[order]

    def area(rows: np.ndarray) -> float:
        counts = np.bincount(rows, minlength=len(y))[order] * heavy
        above = np.add.reduceat(np.where(positive, counts, 0.0), starts)
        below = np.add.reduceat(np.where(positive, 0.0, counts), starts)
        pairs = above.sum() * below.sum()
        return float(above @ (np.cumsum(below) - below / 2) / pairs) if pairs > 0 else float("nan")

    return area


_CLASSES: tuple[Task, ...] = ("binary", "multiclass")
_NUMBERS: tuple[Task, ...] = ("regression", "forecast")

TABLE: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "roc_auc_score", ("binary",)),
        Metric("average_precision", "average_precision_score", ("binary",)),
        Metric("brier_score", "brier_score_loss", ("binary",), larger_is_better=False),
        Metric("roc_auc_ovr", "roc_auc_score", ("multiclass",), options=(("multi_class", "ovr"),)),
        Metric("log_loss", "log_loss", _CLASSES, larger_is_better=False),
        Metric("accuracy", "accuracy_score", _CLASSES, of="decisions"),
        Metric("balanced_accuracy", "balanced_accuracy_score", _CLASSES, of="decisions"),
        Metric("f1", "f1_score", ("binary",), of="decisions", options=(("zero_division", 0.0),)),
        Metric(
            "f1_macro",
            "f1_score",
            _CLASSES,
            of="decisions",
            options=(("average", "macro"), ("zero_division", 0.0)),
        ),
        Metric("precision", "precision_score", ("binary",), of="decisions", options=(("zero_division", 0.0),)),
        Metric("recall", "recall_score", ("binary",), of="decisions", options=(("zero_division", 0.0),)),
        Metric("r2", "r2_score", _NUMBERS),
        Metric("mean_absolute_error", "mean_absolute_error", _NUMBERS, larger_is_better=False),
        Metric("root_mean_squared_error", "root_mean_squared_error", _NUMBERS, larger_is_better=False),
        Metric(PINBALL, "mean_pinball_loss", _NUMBERS, larger_is_better=False),
    )
}

PRIMARY: dict[Task, str] = {
    "binary": "roc_auc",
    "multiclass": "log_loss",
    "regression": "root_mean_squared_error",
    "forecast": "mean_absolute_error",
}
"""What a candidate is chosen by when the spec does not say."""


def known(problem: Problem) -> dict[str, Metric]:
    """The metrics of a problem by name; without quantiles none has a pinball loss."""
    return {
        name: metric.at(problem.quantiles)
        for name, metric in TABLE.items()
        if problem.task in metric.tasks and (name != PINBALL or problem.quantiles)
    }


def beyond_chance(gains: np.ndarray) -> bool:
    """Whether gains [folds] are more than chance makes them: their mean is above its own standard error."""
    return bool(gains.mean() > gains.std(ddof=1) / len(gains) ** 0.5)


def bootstrap(
    statistic: Callable[[np.ndarray], float], n: int, confidence: float, seed: int, serial: Serial | None = None
) -> Interval | None:
    """Percentile bootstrap interval of ``statistic(row_indices)`` over ``n`` rows (Efron & Tibshirani 1993, ch. 13).

    ``serial``: blocks of neighbours in time are drawn rather than rows (Künsch 1989, *Annals of Statistics* 17(3)).
    None when a resample leaves the statistic undefined in more than one case out of twenty.
    """
    import numpy as np
    import sklearn

    rounds = max(ROUNDS, round(2 * BEYOND / (1 - confidence)))
    generator = np.random.default_rng(seed)
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        draw = _blocks(serial, generator) if serial else lambda: generator.integers(0, n, n)
        values = np.array([statistic(draw()) for _ in range(rounds)])
    defined = values[np.isfinite(values)]
    if len(defined) < 0.95 * rounds:
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    method = f"{'block ' if serial else ''}bootstrap ({rounds})"
    return Interval(low=float(low), high=float(high), confidence=confidence, method=method)


def _blocks(serial: Serial, generator: np.random.Generator) -> Callable[[], np.ndarray]:
    """Draws of as many steps of time as there are, in blocks that begin by chance, with the rows of each step.

    After the last step comes the first, so that all are drawn as often (Politis & Romano 1992). Of few steps, blocks
    are a quarter at most.
    """
    import numpy as np

    order = np.argsort(serial.number, kind="stable")
    starts = np.unique(serial.number[order], return_index=True)[1]
    counts = np.diff(np.append(starts, len(order)))
    steps = len(starts)
    length = max(1, min(serial.block, steps // 4))

    def draw() -> np.ndarray:
        first = generator.integers(0, steps, -(-steps // length))
        drawn = ((first[:, None] + np.arange(length)).reshape(-1) % steps)[:steps]
        rows = counts[drawn]
        within = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows)
        return np.asarray(order[np.repeat(starts[drawn], rows) + within])

    return draw
