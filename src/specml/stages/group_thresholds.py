"""A threshold for each group, so that rates of the groups come near each other: found on out-of-fold predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml.errors import StageFailed

if TYPE_CHECKING:
    import numpy as np

    from specml.mitigation import GroupThresholds
    from specml.spec import Problem

LEVELS = 400
"""Lowest rates that are tried, evenly chosen of all that the groups can have."""
SLACK = 1e-12


@dataclass(frozen=True)
class _Cuts:
    """What each cut of a group does: cuts, the rate of favourable decisions and what it is worth, by rising rate."""

    cuts: np.ndarray
    rates: np.ndarray
    worth: np.ndarray

    def best(self, low: float, high: float) -> int | None:
        """The cut that is worth most of those with a rate from ``low`` to ``high``; None where there is none."""
        import numpy as np

        start = int(np.searchsorted(self.rates, low - SLACK, side="left"))
        end = int(np.searchsorted(self.rates, high + SLACK, side="right"))
        return start + int(np.argmax(self.worth[start:end])) if start < end else None


def group_thresholds(
    asked: GroupThresholds,
    problem: Problem,
    y: np.ndarray,
    scores: np.ndarray,
    weight: np.ndarray | None,
    *,
    groups: np.ndarray,
    favourable: int,
    threshold: float,
) -> dict[str, Any]:
    """Thresholds by group, of all that keep the lowest rate within ``asked.min`` of the highest those worth most.

    No chance is in it: a group's rows are all decided by one number (Hardt, Price & Srebro 2016, *Equality of
    Opportunity in Supervised Learning*, without their randomised thresholds, so a ratio and not equality is asked).
    ``threshold``: that of all rows, which groups of fewer than ``asked.min_group_size`` keep.

    Raises:
        StageFailed: no thresholds meet the ratio.
    """
    import numpy as np

    known = np.isfinite(scores)
    y, scores, groups = y[known], scores[known], groups[known]
    weights = np.ones(len(y)) if weight is None else weight[known]
    gains = weights * _gains(problem, y, weights, threshold)
    rated = np.ones(len(y), dtype=bool) if asked.metric == "selection_rate_ratio" else y == favourable
    names = sorted(set(groups.tolist()))
    large = [one for one in names if (rated & (groups == one)).sum() >= asked.min_group_size]
    if len(large) < 2:
        what = f"{len(large)} groups of {asked.by!r} have {asked.min_group_size} rows that the rate is over, and more."
        raise StageFailed(what, where="mitigation.group_thresholds", hint="Ask for a smaller min_group_size.")
    every = {
        one: _cuts(scores[groups == one], (weights * rated)[groups == one], gains[groups == one], favourable)
        for one in large
    }
    found = _together(list(every.values()), asked.min)
    if found is None:
        what = f"no thresholds bring the lowest rate within {asked.min:g} of the highest: a group is too small for it."
        raise StageFailed(what, where="mitigation.group_thresholds.min", hint="Ask for a lower ratio.")
    chosen = {one: float(cuts.cuts[place]) for (one, cuts), place in zip(every.items(), found, strict=True)}
    rates = [float(cuts.rates[place]) for cuts, place in zip(every.values(), found, strict=True)]
    above = float(np.nextafter(np.float32(1), np.float32(2)))
    return {
        "column": asked.by,
        "metric": asked.metric,
        "thresholds": {one: float(np.float32(min(cut, above))) for one, cut in chosen.items()},
        "small": [one for one in names if one not in large],
        "ratio": min(rates) / max(rates),
    }


def _together(every: list[_Cuts], ratio: float) -> list[int] | None:
    """One cut of each group: for each lowest rate the best within the ratio, and of these what is worth most."""
    import numpy as np

    levels = np.unique(np.concatenate([one.rates for one in every]))
    levels = levels[levels > 0]
    kept = np.unique(np.linspace(0, len(levels) - 1, min(LEVELS, len(levels))).round().astype(int))
    best: tuple[float, list[int]] | None = None
    for level in levels[kept].tolist():
        places = [one.best(level, level / ratio) for one in every]
        if any(place is None for place in places):
            continue
        chosen = [place for place in places if place is not None]
        total = float(sum(one.worth[place] for one, place in zip(every, chosen, strict=True)))
        if best is None or total > best[0]:
            best = total, chosen
    return None if best is None else best[1]


def _cuts(scores: np.ndarray, rated: np.ndarray, gains: np.ndarray, favourable: int) -> _Cuts:
    """Every way to divide a group's rows; ``rated``: what each weighs in the rate."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    positive = np.append(0.0, np.cumsum(rated[order])[ends]) / rated.sum()
    worth = np.append(0.0, np.cumsum(gains[order])[ends])
    cuts = np.append(np.inf, ordered[ends])
    if favourable == 1:
        return _Cuts(cuts, positive, worth)
    return _Cuts(cuts[::-1], (1 - positive)[::-1], worth[::-1])


def _gains(problem: Problem, y: np.ndarray, weight: np.ndarray, threshold: float) -> np.ndarray:
    """What deciding each row positive is worth above deciding it negative, by what found the threshold of all rows.

    A declared one is taken for the theoretical one of costs (Elkan 2001): 1 - t for a hit, t for a false alarm.
    """
    import numpy as np

    costs, decision = problem.costs, problem.decision
    if decision.threshold == "costs" and costs is not None:
        hit, alarm = costs.missed, costs.alarmed
    elif decision.threshold == "auto" and decision.metric == "balanced_accuracy":
        positive = weight[y == 1].sum() / weight.sum()
        hit, alarm = 1 / positive, 1 / (1 - positive)
    elif decision.threshold == "auto":
        hit, alarm = 1.0, 1.0
    else:
        hit, alarm = 1 - threshold, threshold
    return np.where(y == 1, hit, -alarm)
