"""Whether, and how, the chosen model's probabilities are calibrated: judged by the folds, fitted on all of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from specml.calibration import BINARY, FEWEST, METHODS, MULTICLASS
from specml.metrics import TABLE, beyond_chance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from specml.calibration import Calibration


def calibrate(
    wanted: str,
    outcome: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None,
    folds: Sequence[np.ndarray],
    *,
    scored: bool = False,
) -> tuple[Calibration | None, dict[str, Any]]:
    """What calibrates ``outcome``, out-of-fold probabilities [n] or [n, k]; and how that was found.

    ``scored``: see ``Calibration.fit``.

    A method's log loss on a fold is that of a fit on the other folds' rows. ``auto`` takes the best method if it is
    better than none by more than one standard error of the folds' differences. In the end it is fitted on every row
    that is in a fold.
    """
    import numpy as np

    inside = np.concatenate(folds)
    weights = np.ones(len(y)) if weight is None else weight
    methods = _methods(wanted, outcome, len(inside))
    told: dict[str, Any] = {"wanted": wanted, "method": None, "rows": len(inside)}
    if len(folds) > 1:
        losses = {"none": [_loss(y, outcome, weights, rows) for rows in folds]}
        losses |= {
            name: list(_losses(partial(METHODS[name].fit, scored=scored), outcome, y, weights, folds))
            for name in methods
        }
        told["log_loss"] = {name: float(np.mean(one)) for name, one in losses.items()}
        if wanted == "auto":
            methods = _worthwhile(losses)
    elif wanted == "auto":
        methods = ()
    if not methods:
        return None, told
    found = METHODS[methods[0]].fit(outcome[inside], y[inside], weights[inside], scored=scored)
    return found, {**told, "method": found.method, "state": found.state()}


def _methods(wanted: str, outcome: np.ndarray, rows: int) -> tuple[str, ...]:
    if wanted != "auto":
        return (wanted,)
    return tuple(name for name in (MULTICLASS if outcome.ndim == 2 else BINARY) if name != "isotonic" or rows >= FEWEST)


def _worthwhile(losses: dict[str, list[float]]) -> tuple[str, ...]:
    """The method of the least loss, if that is less than without one by more than chance makes it."""
    import numpy as np

    best = min(losses, key=lambda name: (np.mean(losses[name]), name != "none"))
    gains = np.array(losses["none"]) - np.array(losses[best])
    return (best,) if beyond_chance(gains) else ()


def _losses(
    fit: Callable[..., Calibration], outcome: np.ndarray, y: np.ndarray, weight: np.ndarray, folds: Sequence[np.ndarray]
) -> Any:
    import numpy as np

    for number, rows in enumerate(folds):
        others = np.concatenate([one for place, one in enumerate(folds) if place != number])
        found = fit(outcome[others], y[others], weight[others])
        calibrated = np.full_like(outcome, np.nan)
        calibrated[rows] = found(outcome[rows])
        yield _loss(y, calibrated, weight, rows)


def _loss(y: np.ndarray, scores: np.ndarray, weight: np.ndarray, rows: np.ndarray) -> float:
    import numpy as np

    return TABLE["log_loss"].over(y[rows], scores[rows], None, weight[rows])(np.arange(len(rows)))
