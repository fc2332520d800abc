"""Scores by name, as scikit-learn defines them, with their intervals.

Names are known without importing scikit-learn, so that a spec can be checked at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from specml import intervals, resamples
from specml.evidence import ABSTAINED, MEDIAN, Interval, Serial, effective, wilson

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

How = Literal["auto", "bootstrap", "analytic"]


class Judged(NamedTuple):
    """What a metric measures: as in ``Evidence``, of the same rows."""

    y: np.ndarray
    scores: np.ndarray
    decisions: np.ndarray | None
    weight: np.ndarray | None = None


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
    usual: bool = False
    """Told of every model, whether asked for or not."""
    of_target: bool = False
    """In the target's unit (or its square), of which no margin could be said that suits every problem."""
    weighs: bool = True
    """Whether scikit-learn defines it of weighted rows."""
    part: int | None = None
    """Of several numbers that the function gives the one that is meant."""

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
        if judged is None or len(y) == 0 or not np.isfinite(judged).all() or not self._takes(weight):
            return float("nan")
        if self.name == PINBALL and self.quantiles:
            parts = zip(self.quantiles, judged.T, strict=True)
            return float(
                np.mean([sklearn.metrics.mean_pinball_loss(y, p, sample_weight=weight, alpha=a) for a, p in parts])
            )
        options = dict(self.options)
        if self.name in _OF_PROBABILITIES:
            options["labels"] = np.arange(2 if scores.ndim == 1 else scores.shape[1])
        if self.name in ("log_loss", "d2_log_loss_score"):
            judged = np.clip(judged, resamples.EPSILON, 1 - resamples.EPSILON)
        if self.name.startswith("roc_auc_ov"):
            judged = judged / judged.sum(axis=1, keepdims=True)
        if self.name in _OF_TWO and len(set(y.tolist())) < 2:
            return float("nan")
        if self.name in _POSITIVE and not self._defined(y, judged):
            return float("nan")
        if self.weighs:
            options["sample_weight"] = weight
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            value = getattr(sklearn.metrics, self.function)(y, judged, **options)
        return float(value if self.part is None else value[self.part])

    def over(
        self, y: np.ndarray, scores: np.ndarray, decisions: np.ndarray | None, weight: np.ndarray | None = None
    ) -> Callable[[np.ndarray], float]:
        """``measure`` of any of these rows, by their indices: for many resamples, prepared once where that can be.

        Equal to ``measure`` but for the rounding of sums.
        """
        judged = self._judged(scores)
        if self.name == PINBALL and self.quantiles:
            return resamples.mean_over(resamples.pinball(y, judged, self.quantiles), weight)
        if self.of == "decisions" and decisions is not None and (score := resamples.MATRIX.get(self.name)):
            k = 2 if scores.ndim == 1 else scores.shape[1]
            return resamples.of_matrix(y, decisions, weight, k, score)
        if (each := resamples.EACH.get(self.name)) is not None:
            mean = resamples.mean_over(each(y, judged), weight)
            return (lambda rows: float(mean(rows) ** 0.5)) if self.name.startswith("root_") else mean
        if (prepare := _PREPARED.get(self.name)) is not None:
            return prepare(y, judged, weight)

        def measured(rows: np.ndarray) -> float:
            chosen = (None if one is None else one[rows] for one in (decisions, weight))
            return self.measure(y[rows], scores[rows], *chosen)

        return measured

    def interval(
        self, rows: Judged, confidence: float, seed: int, serial: Serial | None = None, how: How = "auto"
    ) -> Interval | None:
        """The confidence interval of ``measure(*rows)``; None where the rows can't tell.

        ``how``: ``analytic`` in closed form, if ``self.analytic`` (see ``intervals``); ``auto`` so where that is known
        to cover as well (proportions and the area under the ROC curve), else by ``bootstrap``.
        """
        if self.name == "max_error":
            # No interval tells of the largest error of other rows: it is of these that the gate speaks.
            value = self.measure(*rows)
            return Interval(low=value, high=value, confidence=confidence, method="these rows")
        if how == "bootstrap" or serial is not None or not self.analytic or (how == "auto" and self.name in _SKEWED):
            if rows.weight is not None and not self.weighs:
                return None
            found = bootstrap(self.over(*rows), len(rows.y), confidence, seed, serial)
            return found and self.faultless(found, rows, confidence)
        return self._closed(rows, confidence)

    def counted(self, rows: Judged) -> int:
        """Of how many rows a score tells: of decisions, those that are decided; weighted ones as ``effective`` says."""
        if self.of != "decisions" or rows.decisions is None:
            return round(effective(rows.weight, len(rows.y)))
        made = rows.decisions != ABSTAINED
        return round(effective(None if rows.weight is None else rows.weight[made], int(made.sum())))

    def faultless(self, found: Interval, rows: Judged, confidence: float) -> Interval:
        """``found`` by the bootstrap; but where the rows have no fault, and no resample could, by Wilson's interval.

        Of none in the rows of a class: it bounds how often one is decided, or ranked, wrong, and no score is worse than
        that but by what chance would have right, which Matthews' and Cohen's take off. Of two classes the rarer one is
        taken, of several the mean, and of a score of the positive class, or by how common classes are, its rows alone.
        """
        import numpy as np

        best = 1.0 if self.larger_is_better else 0.0
        if self.name not in _FAULTLESS or not found.low == found.high == best:
            return found
        y, _, decisions, weight = rows
        made = np.ones(len(y), dtype=bool) if decisions is None or self.of != "decisions" else decisions != ABSTAINED
        if self.name in _OF_POSITIVE:
            sides = [made & (y == 1)]
        else:
            alike = self.name.endswith("_weighted") or self.name in _SHARES
            sides = [made] if alike else [made & (y == one) for one in np.unique(y[made])]
        counts = [effective(None if weight is None else weight[side], int(side.sum())) for side in sides]
        rights = [wilson(n, n, confidence).low if n else 0.0 for n in counts]
        right = min(rights) if len(rights) < 3 else float(np.mean(rights))
        low, high = right, 1.0
        if not self.larger_is_better:
            low, high = 0.0, (1 - right) / max(right, resamples.SMALLEST)
        elif self.name in ("matthews_corrcoef", "cohen_kappa"):
            low = 2 * right - 1
        return found.model_copy(update={"low": low, "high": high, "method": "wilson"})

    @property
    def analytic(self) -> bool:
        """Whether an interval in closed form is known."""
        return self.name == "roc_auc" or self.name in _SHARES or self.name in resamples.EACH or self.name == PINBALL

    def _closed(self, rows: Judged, confidence: float) -> Interval | None:
        y, scores, decisions, weight = rows
        judged = self._judged(scores)
        if self.name == "roc_auc":
            return intervals.delong(y, judged, weight, confidence)
        if self.of == "decisions":
            if decisions is None:
                return None
            among, inside = _SHARES[self.name](y, decisions)
            among &= decisions != ABSTAINED
            return intervals.proportion(inside[among], None if weight is None else weight[among], confidence)
        if self.name in _SHARES:
            return intervals.proportion(resamples.EACH[self.name](y, scores), weight, confidence)
        if self.name == PINBALL:
            return intervals.mean(resamples.pinball(y, judged, self.quantiles), weight, confidence)
        found = intervals.mean(resamples.EACH[self.name](y, judged), weight, confidence)
        if found is None or not self.name.startswith("root_"):
            return found
        return found.model_copy(update={"low": max(found.low, 0.0) ** 0.5, "high": found.high**0.5})

    def _judged(self, scores: np.ndarray) -> np.ndarray:
        """The scores that it judges: of quantiles the median alone, unless it judges them all."""
        alone = self.quantiles and self.name != PINBALL
        return scores[:, self.quantiles.index(MEDIAN)] if alone else scores

    def _takes(self, weight: np.ndarray | None) -> bool:
        return weight is None or bool(self.weighs and weight.sum() > 0)

    def _defined(self, y: np.ndarray, predicted: np.ndarray) -> bool:
        """Whether targets and predictions are large enough for a logarithm or a deviance."""
        target, answer = _POSITIVE[self.name]
        return bool(target(y).all() and answer(predicted).all())

    def gain(self, value: float, other: float) -> float:
        """By how much ``value`` is better than ``other``; positive is better whatever the metric's sign."""
        return value - other if self.larger_is_better else other - value


_OF_PROBABILITIES = (
    "log_loss",
    "brier_score",
    "d2_log_loss_score",
    "d2_brier_score",
    "roc_auc_ovr",
    "roc_auc_ovr_weighted",
    "roc_auc_ovo",
    "roc_auc_ovo_weighted",
    "top_k_accuracy",
    "top_3_accuracy",
    "top_5_accuracy",
)
"""These must be told which classes there are."""
_OF_TWO = ("roc_auc", "average_precision", "d2_log_loss_score", "d2_brier_score")
"""These are not defined of rows of one class."""
_POSITIVE: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "mean_squared_log_error": (lambda y: y > -1, lambda p: p > -1),
    "root_mean_squared_log_error": (lambda y: y > -1, lambda p: p > -1),
    "mean_poisson_deviance": (lambda y: y >= 0, lambda p: p > 0),
    "mean_gamma_deviance": (lambda y: y > 0, lambda p: p > 0),
}
"""Of which targets, and of which predictions, these are defined."""
_SHARES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "accuracy": lambda y, decided: (decided >= 0, decided == y),
    "zero_one_loss": lambda y, decided: (decided >= 0, decided != y),
    "precision": lambda y, decided: (decided == 1, y == 1),
    "recall": lambda y, decided: (y == 1, decided == 1),
    **{f"top_{k}_accuracy": lambda y, decided: (decided >= 0, decided == y) for k in ("k", "3", "5")},
}
"""Metrics that are a share of rows: among which rows, and which of them count."""
_SKEWED = (*(name for name in resamples.EACH if name not in _SHARES), PINBALL)
"""Means of losses, which few rows may decide: the bootstrap sees their skewness, a closed form does not."""
_PREPARED: dict[str, Callable[[Any, Any, Any], Callable[[Any], float]]] = {
    "roc_auc": resamples.area,
    "average_precision": resamples.average_precision,
    "roc_auc_ovr": lambda y, scores, weight: resamples.areas(y, scores, weight, weighed=False),
    "roc_auc_ovr_weighted": lambda y, scores, weight: resamples.areas(y, scores, weight, weighed=True),
    "roc_auc_ovo": lambda y, scores, weight: resamples.areas(y, scores, weight, weighed=False, pairs=True),
    "roc_auc_ovo_weighted": lambda y, scores, weight: resamples.areas(y, scores, weight, weighed=True, pairs=True),
    "d2_log_loss_score": lambda y, scores, weight: resamples.beyond_prior(y, scores, weight, "log_loss"),
    "d2_brier_score": lambda y, scores, weight: resamples.beyond_prior(y, scores, weight, "brier_score"),
    "r2": lambda y, scores, weight: resamples.explained(y, scores, weight, biased=False),
    "explained_variance": lambda y, scores, weight: resamples.explained(y, scores, weight, biased=True),
}

_OF_POSITIVE = ("f1", "jaccard", "precision", "recall")
_FAULTLESS = frozenset((*resamples.MATRIX, *_SHARES)) - {"positive_likelihood_ratio"} | {
    "average_precision",
    "roc_auc",
    "roc_auc_ovr",
    "roc_auc_ovr_weighted",
    "roc_auc_ovo",
    "roc_auc_ovo_weighted",
}
"""Metrics that are best where no row is decided, or ranked, wrong, however sure the model is of it."""

_CLASSES: tuple[Task, ...] = ("binary", "multiclass")
_NUMBERS: tuple[Task, ...] = ("regression", "forecast")


def _of_decisions(name: str, function: str, average: str | None = None, **facts: Any) -> Metric:
    """A score of labels; one of the positive class is for binary problems."""
    zero = () if function in _UNDEFINED else (("zero_division", 0.0),)
    options = (*((("average", average),) if average else ()), *zero)
    of_one = average is None and function not in _UNDEFINED
    return Metric(name, function, ("binary",) if of_one else _CLASSES, of="decisions", options=options, **facts)


_UNDEFINED = ("accuracy_score", "zero_one_loss", "balanced_accuracy_score", "matthews_corrcoef", "cohen_kappa_score")
"""Functions that take no ``zero_division``."""
_LESS: Any = {"larger_is_better": False}
_ERROR: Any = {"larger_is_better": False, "of_target": True}

TABLE: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", "roc_auc_score", ("binary",), usual=True),
        Metric("average_precision", "average_precision_score", ("binary",), usual=True),
        Metric("brier_score", "brier_score_loss", _CLASSES, usual=True, **_LESS),
        Metric("roc_auc_ovr", "roc_auc_score", ("multiclass",), options=(("multi_class", "ovr"),), usual=True),
        Metric("log_loss", "log_loss", _CLASSES, usual=True, **_LESS),
        _of_decisions("accuracy", "accuracy_score", usual=True),
        _of_decisions("balanced_accuracy", "balanced_accuracy_score", usual=True),
        _of_decisions("f1", "f1_score", usual=True),
        _of_decisions("f1_macro", "f1_score", "macro", usual=True),
        _of_decisions("precision", "precision_score", usual=True),
        _of_decisions("recall", "recall_score", usual=True),
        Metric("r2", "r2_score", _NUMBERS, usual=True),
        Metric("mean_absolute_error", "mean_absolute_error", _NUMBERS, usual=True, **_ERROR),
        Metric("root_mean_squared_error", "root_mean_squared_error", _NUMBERS, usual=True, **_ERROR),
        Metric(PINBALL, "mean_pinball_loss", _NUMBERS, usual=True, **_ERROR),
        # What is told only where it is asked for.
        Metric("d2_log_loss_score", "d2_log_loss_score", _CLASSES),
        Metric("d2_brier_score", "d2_brier_score", _CLASSES),
        Metric(
            "roc_auc_ovr_weighted",
            "roc_auc_score",
            ("multiclass",),
            options=(("multi_class", "ovr"), ("average", "weighted")),
        ),
        Metric("roc_auc_ovo", "roc_auc_score", ("multiclass",), options=(("multi_class", "ovo"),), weighs=False),
        Metric(
            "roc_auc_ovo_weighted",
            "roc_auc_score",
            ("multiclass",),
            options=(("multi_class", "ovo"), ("average", "weighted")),
            weighs=False,
        ),
        Metric("top_k_accuracy", "top_k_accuracy_score", ("multiclass",), options=(("k", 2),)),
        Metric("top_3_accuracy", "top_k_accuracy_score", ("multiclass",), options=(("k", 3),)),
        Metric("top_5_accuracy", "top_k_accuracy_score", ("multiclass",), options=(("k", 5),)),
        _of_decisions("zero_one_loss", "zero_one_loss", **_LESS),
        _of_decisions("matthews_corrcoef", "matthews_corrcoef"),
        _of_decisions("cohen_kappa", "cohen_kappa_score"),
        Metric("positive_likelihood_ratio", "class_likelihood_ratios", ("binary",), of="decisions", part=0),
        Metric("negative_likelihood_ratio", "class_likelihood_ratios", ("binary",), of="decisions", part=1, **_LESS),
        _of_decisions("f1_weighted", "f1_score", "weighted"),
        *(
            _of_decisions(f"{name}_{average}", f"{name}_score", average)
            for name in ("precision", "recall", "jaccard")
            for average in ("macro", "weighted")
        ),
        _of_decisions("jaccard", "jaccard_score"),
        Metric("explained_variance", "explained_variance_score", _NUMBERS),
        Metric("d2_absolute_error_score", "d2_absolute_error_score", _NUMBERS),
        Metric("mean_squared_error", "mean_squared_error", _NUMBERS, **_ERROR),
        Metric("median_absolute_error", "median_absolute_error", _NUMBERS, **_ERROR),
        Metric("max_error", "max_error", _NUMBERS, weighs=False, **_ERROR),
        Metric("mean_absolute_percentage_error", "mean_absolute_percentage_error", _NUMBERS, **_LESS),
        Metric("mean_squared_log_error", "mean_squared_log_error", _NUMBERS, **_LESS),
        Metric("root_mean_squared_log_error", "root_mean_squared_log_error", _NUMBERS, **_LESS),
        Metric("mean_poisson_deviance", "mean_poisson_deviance", _NUMBERS, **_LESS),
        Metric("mean_gamma_deviance", "mean_gamma_deviance", _NUMBERS, **_LESS),
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
