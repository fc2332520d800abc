"""From which probability on the positive class is decided: found on out-of-fold predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from specml.decision import Costs
    from specml.spec import Problem

    Worth = Callable[[np.ndarray, np.ndarray], np.ndarray]
    """What cuts are worth, larger is better, by their true and false positive rates [cuts]."""

LOWEST, HIGHEST = 0.001, 0.999
"""Between which ``auto`` stays: a model so sure of every row was not made for a threshold by its ranks."""


def threshold(
    problem: Problem, y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None
) -> tuple[float, dict[str, Any]]:
    """The threshold, rounded to float32, which the graph compares in; and how it was found.

    ``scores``: out-of-fold probabilities of the positive class [n], NaN for rows in no fold; ``y`` 0 or 1 [n].
    """
    import numpy as np

    wanted, known = problem.decision.threshold, np.isfinite(scores)
    y, scores = y[known], scores[known]
    weight = None if weight is None else weight[known]
    told: dict[str, Any] = {"by": "declared"}
    if wanted == "auto":
        best = _best(_WORTH[problem.decision.metric](*_sizes(y, weight)), y, scores, weight)
        found, told = min(max(best, LOWEST), HIGHEST), {"by": problem.decision.metric}
    elif wanted == "costs":
        assert problem.costs is not None
        found, told = _by_costs(problem.costs, y, scores, weight)
    else:
        found = wanted
    return float(np.float32(found)), told


def _by_costs(
    costs: Costs, y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None
) -> tuple[float, dict[str, Any]]:
    """The cut of least mean cost; the theoretical one where that costs no more, for it hangs on no rows."""
    import numpy as np

    def cost(cut: float) -> float:
        return float(np.average(costs.each(y, (scores >= cut).astype(np.int64)), weights=weight))

    positive, negative = _sizes(y, weight)

    def worth(true: np.ndarray, false: np.ndarray) -> np.ndarray:
        return np.asarray(positive * costs.missed * true - negative * costs.alarmed * false)

    theoretical = costs.threshold
    best = min(_best(worth, y, scores, weight), 1.0)
    found = theoretical if cost(theoretical) <= cost(best) else best
    told = {"expected_cost": cost(found), "theoretical": theoretical, "expected_cost_theoretical": cost(theoretical)}
    return found, {"by": "costs", **told, "currency": costs.currency}


def _best(worth: Worth, y: np.ndarray, scores: np.ndarray, weight: np.ndarray | None) -> float:
    """The highest of the scores from which on deciding positive is worth most; infinite where never is."""
    import numpy as np
    from sklearn.metrics import roc_curve

    false, true, cuts = roc_curve(y, scores, sample_weight=weight, drop_intermediate=False)
    return float(cuts[int(np.argmax(worth(true, false)))])


def _sizes(y: np.ndarray, weight: np.ndarray | None) -> tuple[float, float]:
    """What the positive and the negative rows weigh."""
    import numpy as np

    negative, positive = np.bincount(y, weights=weight, minlength=2).tolist()
    return float(positive), float(negative)


def _youden(positive: float, negative: float) -> Worth:
    """Youden 1950, *Index for rating diagnostic tests*: J is twice the balanced accuracy, less 1."""
    return lambda true, false: true - false


def _accuracy(positive: float, negative: float) -> Worth:
    return lambda true, false: positive * true - negative * false


def _f1(positive: float, negative: float) -> Worth:
    return lambda true, false: 2 * positive * true / (positive * true + negative * false + positive)


def _f1_macro(positive: float, negative: float) -> Worth:
    one, other = _f1(positive, negative), _f1(negative, positive)
    return lambda true, false: one(true, false) + other(1 - false, 1 - true)


_WORTH: dict[str, Callable[[float, float], Worth]] = {
    "balanced_accuracy": _youden,
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
}
