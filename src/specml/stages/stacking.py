"""A weighted mean of candidates whose weights have the least loss on their out-of-fold predictions.

Stacking (Wolpert 1992, *Stacked generalization*) with weights of 0 and more that are 1 together: Breiman 1996, *Stacked
regressions*; van der Laan, Polley & Hubbard 2007, *Super learner*. The loss is convex in the weights, so the least of
it is one, whatever it is searched from: the log loss of probabilities, the squared error of predictions, the pinball
loss of quantiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from specml.resamples import EPSILON
from specml.stages.ensemble import Ensemble, Measure

if TYPE_CHECKING:
    import numpy as np

LEAST = 0.01
"""A smaller weight is none: a member costs the time of its answers."""
DIGITS = 4
"""Of a weight: beyond, what an optimiser finds hangs on the machine."""

Loss = Callable[["np.ndarray", "np.ndarray"], "tuple[np.ndarray, np.ndarray]"]
"""``loss(rows, mean)``: of each row its loss [n], and how that grows with its mean [n] or [n, k]."""


def stacking(
    predictions: Mapping[str, np.ndarray], folds: Sequence[np.ndarray], loss: Loss, measure: Measure, *, most: int
) -> Ensemble:
    """The weights over all folds, of at most ``most`` candidates, and what they are worth.

    Each fold is scored by weights that were found on the others, as ``ensemble`` does.
    """
    import numpy as np

    def mean(weights: Mapping[str, float], rows: np.ndarray) -> Any:
        return sum(predictions[name][rows] * weight for name, weight in sorted(weights.items()))

    scores = []
    for fold in folds:
        others = [one for one in folds if one is not fold]
        scores.append(measure(fold, mean(_weights(predictions, np.concatenate(others), loss, most), fold)))
    return Ensemble(_weights(predictions, np.concatenate(folds), loss, most), tuple(scores))


def _weights(predictions: Mapping[str, np.ndarray], rows: np.ndarray, loss: Loss, most: int) -> dict[str, float]:
    """The best of all; then, without those of nearly no weight and beyond the ``most`` heaviest, of these."""
    found = _least(predictions, sorted(predictions), rows, loss)
    heaviest = sorted((-weight, name) for name, weight in found.items() if weight >= LEAST)[:most]
    kept = sorted(name for _, name in heaviest)
    if len(kept) < len(found):
        found = _least(predictions, kept, rows, loss)
    rounded = {name: round(weight, DIGITS) for name, weight in found.items() if weight >= LEAST}
    total = sum(rounded.values())
    return {name: weight / total for name, weight in sorted(rounded.items())}


def _least(
    predictions: Mapping[str, np.ndarray], names: Sequence[str], rows: np.ndarray, loss: Loss
) -> dict[str, float]:
    import numpy as np
    from scipy.optimize import minimize

    if len(names) == 1:
        return {names[0]: 1.0}
    stacked = np.stack([predictions[name][rows] for name in names])  # [members, n] or [members, n, k]

    def value(weights: np.ndarray) -> tuple[float, np.ndarray]:
        each, slope = loss(rows, np.tensordot(weights, stacked, 1))
        return float(each.mean()), np.tensordot(stacked, slope, slope.ndim) / len(rows)

    first = np.full(len(names), 1 / len(names))
    together = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    scale = value(first)[0] or 1.0  # SLSQP's tolerance is absolute
    found = minimize(
        lambda w: tuple(part / scale for part in value(w)),
        first,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(names),
        constraints=together,
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return dict(zip(names, found.x.tolist(), strict=True))


def log_loss(y: np.ndarray, weight: np.ndarray) -> Loss:
    """Of probabilities [n] of class 1, or [n, k]; ``y`` class indices [n]."""
    import numpy as np

    def loss(rows: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept, target, heavy = np.clip(mean, EPSILON, 1 - EPSILON), y[rows], weight[rows]
        if mean.ndim == 1:
            right = np.where(target == 1, kept, 1 - kept)
            return -heavy * np.log(right), -heavy * np.where(target == 1, 1, -1) / right
        places = (np.arange(len(rows)), target)
        slope = np.zeros_like(kept)
        slope[places] = -heavy / kept[places]
        return -heavy * np.log(kept[places]), slope

    return loss


def squared_error(y: np.ndarray, weight: np.ndarray) -> Loss:
    """Of predictions [n]."""

    def loss(rows: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missed = mean - y[rows]
        return weight[rows] * missed**2, 2 * weight[rows] * missed

    return loss


def pinball(y: np.ndarray, weight: np.ndarray, quantiles: tuple[float, ...]) -> Loss:
    """Of quantiles [n, q]."""
    import numpy as np

    levels = np.array(quantiles)

    def loss(rows: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missed, heavy = y[rows][:, None] - mean, weight[rows][:, None] / len(levels)
        each = heavy * np.maximum(levels * missed, (levels - 1) * missed)
        return each.sum(axis=1), heavy * np.where(missed > 0, -levels, 1 - levels)

    return loss
