"""A weighted mean of candidates, chosen step by step by their out-of-fold predictions.

Greedy selection with replacement (Caruana, Niculescu-Mizil, Crew & Ksikes 2004, *Ensemble selection from libraries of
models*): each step adds the candidate with which the mean scores best, one that is in it already too; the weights are
how often each was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

STEPS = 25
"""Most steps: a weight is a multiple of 1/25 or coarser."""
PATIENCE = 5
"""Steps that may pass without a better mean before no more are taken."""

Measure = Callable[["np.ndarray", "np.ndarray"], float]
"""``measure(rows, scores)``: the metric of ``scores`` [n] or [n, k] for the training rows of these indices."""


@dataclass(frozen=True)
class Ensemble:
    """What the greedy selection found."""

    weights: dict[str, float]
    """Above 0, by candidate, and 1 together."""
    folds: tuple[float, ...]
    """The metric on each fold, of the mean whose members and weights were chosen on the other folds alone."""


@dataclass
class Blend:
    """Candidates whose means are measured fold by fold; what was measured once is kept."""

    predictions: Mapping[str, np.ndarray]
    """Out of fold, by candidate: float64 [n] or [n, k]."""
    folds: Sequence[np.ndarray]
    """The rows of each validation fold."""
    measure: Measure
    larger_is_better: bool
    _known: dict[tuple[int, tuple[tuple[str, int], ...]], float] = field(default_factory=dict)

    def score(self, fold: int, taken: Mapping[str, int]) -> float:
        """The metric on a fold of the mean in which each candidate counts as often as it was ``taken``."""
        key = (fold, tuple(sorted(taken.items())))
        if key not in self._known:
            rows = self.folds[fold]
            total = sum(taken.values())
            # One sum in the names' order: the same bits wherever and however often it is made.
            mean = sum(self.predictions[name][rows] * (count / total) for name, count in key[1])
            self._known[key] = self.measure(rows, mean)
        return self._known[key]

    def mean_score(self, folds: Sequence[int], taken: Mapping[str, int]) -> float:
        """The mean over ``folds``, negative where smaller is better."""
        mean = sum(self.score(fold, taken) for fold in folds) / len(folds)
        return mean if self.larger_is_better else -mean

    def greedy(self, folds: Sequence[int], most: int) -> dict[str, int]:
        """How often each candidate is taken, judged by ``folds``, of at most ``most`` distinct ones.

        Of the means along the way the best is returned, the first of equals; the first step takes the best candidate,
        so that none alone is better than the result on these folds.
        """
        taken: dict[str, int] = {}
        best: dict[str, int] = {}
        leading, since = float("-inf"), 0
        for _ in range(STEPS):
            names = sorted(self.predictions if len(taken) < most else taken)
            options = [{**taken, name: taken.get(name, 0) + 1} for name in names]
            taken = max(options, key=lambda one: self.mean_score(folds, one))
            score = self.mean_score(folds, taken)
            if score > leading:
                best, leading, since = taken, score, 0
            else:
                since += 1
            if since == PATIENCE:
                break
        return best


def ensemble(
    predictions: Mapping[str, np.ndarray],
    folds: Sequence[np.ndarray],
    measure: Measure,
    *,
    larger_is_better: bool,
    most: int,
) -> Ensemble:
    """The greedy selection over all folds, and what it is worth.

    The score of the weights on the rows that chose them would flatter it. So each fold is scored by a selection of its
    own, made on the other folds; what remains is that the members' models of those folds had this one's rows among
    their training rows, as in any stacking by cross-validation (van der Laan, Polley & Hubbard 2007, *Super learner*).
    """
    blend = Blend(predictions, folds, measure, larger_is_better)
    every = range(len(folds))
    nested = tuple(blend.score(fold, blend.greedy([one for one in every if one != fold], most)) for fold in every)
    taken = blend.greedy(every, most)
    total = sum(taken.values())
    return Ensemble({name: count / total for name, count in sorted(taken.items())}, nested)
