"""Which prediction interval the chosen model gets: judged by the folds, fitted on all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.conformal import METHODS, Conformal, score, usual_error
from specml.errors import NotEnoughData
from specml.evidence import MEDIAN
from specml.metrics import beyond_chance
from specml.piecewise import straight

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from specml.conformal import Method
    from specml.spec import PredictionInterval


def interval(
    wanted: PredictionInterval,
    outcome: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None,
    folds: Sequence[np.ndarray],
    *,
    forward: bool,
    quantiles: tuple[float, ...] = (),
) -> dict[str, Any]:
    """The interval around ``outcome``, out-of-fold predictions float64 [n] or ``quantiles`` [n, q].

    Returns how it was found, and under ``state`` what was learned.

    A fold is judged by an interval of the other folds' rows, with ``forward`` (folds in time) of the earlier ones'.
    ``auto`` takes another method than ``absolute`` if its interval score is better by more than one standard error of
    the folds' differences. In the end it is fitted on every row that is in a fold.

    Raises:
        NotEnoughData: there are too few rows in the folds for that coverage.
    """
    import numpy as np

    rows = _Rows(wanted.coverage, outcome, y, weight, quantiles.index(MEDIAN) if quantiles else 0)
    methods: tuple[Method, ...] = METHODS
    if quantiles:
        methods = ("quantile",)
    elif wanted.method != "auto":
        methods = (wanted.method,)
    found = {method: rows.judged(method, folds, forward=forward) for method in methods}
    scores = {method: [float(one[:, 0].mean()) for one in parts] for method, parts in found.items()}
    method = _worthwhile(scores) if len(methods) > 1 else methods[0]
    told: dict[str, Any] = {"wanted": wanted.method, "rows": sum(map(len, folds)), "method": method}
    if judged := found[method]:
        every = np.concatenate(judged)
        told["folds"] = {"rows": len(every), "coverage": float(every[:, 1].mean()), "width": float(every[:, 2].mean())}
        told["interval_score"] = {name: float(np.mean(one)) for name, one in scores.items() if one}
    return {**told, "state": rows.fit(method, folds).state()}


class _Rows:
    """Predictions and what they are worth."""

    def __init__(
        self, coverage: float, outcome: np.ndarray, y: np.ndarray, weight: np.ndarray | None, middle: int
    ) -> None:
        self.coverage, self.outcome, self.y, self.weight, self.middle = coverage, outcome, y, weight, middle

    def fit(self, method: Method, folds: Sequence[np.ndarray]) -> Conformal:
        """Of the rows in ``folds``. Their usual error is told each fold by the others, as a new row is told it."""
        import numpy as np

        inside, usual = np.concatenate(folds), None
        if method == "normalised" and len(folds) > 1:
            parts = []
            for number, rows in enumerate(folds):
                others = np.concatenate([one for place, one in enumerate(folds) if place != number])
                points = usual_error(self.outcome[others], np.abs(self.y - self.outcome)[others])
                parts.append(straight(*points, self.outcome[rows]))
            usual = np.concatenate(parts)
        weight = None if self.weight is None else self.weight[inside]
        outcome, y = self.outcome[inside], self.y[inside]
        return Conformal.fit(method, self.coverage, outcome, y, weight=weight, usual=usual, middle=self.middle)

    def judged(self, method: Method, folds: Sequence[np.ndarray], *, forward: bool) -> list[np.ndarray]:
        """Of each fold that others tell of: interval score, whether it holds the target, and width [rows, 3]."""
        import numpy as np

        found = []
        for number, rows in enumerate(folds):
            others = [one for place, one in enumerate(folds) if place < number or (place > number and not forward)]
            if not others:
                continue
            try:
                ends = self.fit(method, others)(self.outcome[rows])
            except NotEnoughData:  # of all rows there may be enough
                return []
            y = self.y[rows]
            held = (ends[:, 0] <= y) & (y <= ends[:, 1])
            found.append(np.stack([score(ends, y, self.coverage), held, ends[:, 1] - ends[:, 0]], axis=1))
        return found


def _worthwhile(scores: dict[Method, list[float]]) -> Method:
    """The method of the least score, if that is less than ``absolute`` has by more than chance makes it."""
    import numpy as np

    # Where rows are few, some method may have been fitted for fewer folds: it is not compared.
    scores = {name: one for name, one in scores.items() if len(one) == len(scores["absolute"])}
    if len(scores["absolute"]) < 2:
        return "absolute"
    best = min(scores, key=lambda name: (np.mean(scores[name]), name != "absolute"))
    gains = np.array(scores["absolute"]) - np.array(scores[best])
    return best if beyond_chance(gains) else "absolute"
