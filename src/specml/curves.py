"""What is drawn of a model on held-out rows: points of curves and counts in bins, never the row of one person.

Curves of rates hold no scores; whatever is averaged or counted in bins has at least ``FEWEST`` rows in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from specml.evidence import ABSTAINED, MEDIAN, wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from specml.evidence import Evidence

POINTS = 200
"""Points of a drawn curve; more can't be told apart on a screen."""
PERIODS = 60
"""Most parts of the held-out time, or of a season, that a forecast is drawn in."""
FEWEST = 10
"""Rows in a bin."""
BINS = 10
CLASSES = 12
"""Classes with a curve of their own, or a row in the confusion matrix; the most frequent ones."""
CONFIDENCE = 0.95


class Bin(NamedTuple):
    """Rows of neighbouring scores: their effective number, mean score, share of hits, and what they weigh."""

    n: float
    score: float
    share: float
    weight: float


def reliability(
    scores: np.ndarray, hits: np.ndarray, weight: np.ndarray | None = None, bins: int = BINS, fewest: int = FEWEST
) -> list[Bin]:
    """At most ``bins`` bins of about as many rows each, by rising score; equal scores are never parted.

    ``scores`` float64 [n], ``hits`` bool [n]. ``Bin.n`` is Kish's effective number of rows (Kish 1965, p. 259).
    """
    import numpy as np

    weight = np.ones(len(scores)) if weight is None else weight
    found = []
    for rows in _parts(scores, bins, fewest):
        w = weight[rows]
        total = float(w.sum())
        if total > 0:
            n = total**2 / float((w**2).sum())
            found.append(Bin(n, float(w @ scores[rows]) / total, float(w @ hits[rows]) / total, total))
    return found


def top_label(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n] and hits [n] whose agreement is calibration.

    Binary: P(positive), and whether it is. Multiclass: the probability of the decided class, and whether it was
    right (Guo et al. 2017, *On Calibration of Modern Neural Networks*).
    """
    import numpy as np

    if evidence.scores.ndim == 1:
        return evidence.scores, evidence.y == 1
    decided = evidence.scores.argmax(axis=1)
    return evidence.scores[np.arange(len(decided)), decided], decided == evidence.y


def drawn(evidence: Evidence, classes: Sequence[object]) -> dict[str, Any]:
    """What the report and ``dvc plots`` draw of ``evidence``, as JSON values."""
    n = len(evidence.y)
    if evidence.task == "regression":
        return {"task": evidence.task, "rows": n, **_regression(evidence), **_forecast(evidence)}
    frequent = _frequent(evidence, len(classes))
    ones = [1] if evidence.task == "binary" else sorted(frequent)
    curves = [_one_against_rest(evidence, one, str(classes[one]), POINTS // len(ones)) for one in ones]
    scores, hits = top_label(evidence)
    return {
        "task": evidence.task,
        "rows": n,
        "curves": [curve for curve in curves if curve],
        "calibration": [
            {"n": round(b.n), "score": short(b.score), "share": short(b.share), **_ends(b)}
            for b in reliability(scores, hits, evidence.weight)
        ],
        "confusion": _confusion(evidence, [str(label) for label in classes], sorted(frequent)),
    }


def _ends(one: Bin) -> dict[str, float]:
    ends = wilson(one.share * one.n, one.n, CONFIDENCE)
    return {"low": short(ends.low), "high": short(ends.high)}


def _frequent(evidence: Evidence, k: int) -> list[int]:
    import numpy as np

    counts = np.bincount(evidence.y, minlength=k)
    return [int(index) for index in np.argsort(-counts, kind="stable")[:CLASSES]]


def _one_against_rest(evidence: Evidence, one: int, label: str, points: int) -> dict[str, Any]:
    """ROC and precision-recall of a class; empty when it has, or leaves, fewer than ``FEWEST`` rows."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    hits, weight = evidence.y == one, evidence.weight
    scores = evidence.scores if evidence.scores.ndim == 1 else evidence.scores[:, one]
    if min(hits.sum(), (~hits).sum()) < FEWEST:
        return {}
    false_positive, true_positive, _ = roc_curve(hits, scores, sample_weight=weight)
    precision, recall, _ = precision_recall_curve(hits, scores, sample_weight=weight)
    return {
        "class": label,
        "n": int(hits.sum()),
        "share": short(hits.mean()),
        "roc_auc": float(roc_auc_score(hits, scores, sample_weight=weight)),
        "average_precision": float(average_precision_score(hits, scores, sample_weight=weight)),
        "roc": _thinned(false_positive, true_positive, points),
        "precision_recall": _thinned(recall[::-1], precision[::-1], points),
    }


def _thinned(x: np.ndarray, y: np.ndarray, points: int) -> list[tuple[float, float]]:
    """At most ``points`` of a curve, its ends among them, about evenly far apart along it."""
    import numpy as np

    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points)).clip(0, len(x) - 1))
    return [(short(x[i]), short(y[i])) for i in sorted({0, *kept.tolist(), len(x) - 1})][-points:]


def _confusion(evidence: Evidence, labels: list[str], shown: list[int]) -> dict[str, Any]:
    """Rows by true (first) and decided class, where one was decided; rare classes are counted together as ``other``."""
    import numpy as np

    assert evidence.decisions is not None
    place = np.full(len(labels), len(shown))
    place[shown] = np.arange(len(shown))
    size = len(shown) + (len(shown) < len(labels))
    counts = np.zeros((size, size), dtype=np.int64)
    made = evidence.decisions != ABSTAINED
    np.add.at(counts, (place[evidence.y[made]], place[evidence.decisions[made]]), 1)
    names = [labels[index] for index in shown] + ["other"] * (size - len(shown))
    return {"labels": names, "counts": counts.tolist()}


def _regression(evidence: Evidence) -> dict[str, Any]:
    """Residuals in bins and against a normal distribution, and actual by predicted values."""
    import numpy as np
    from scipy.stats import norm, t

    actual, predicted = evidence.y.astype(np.float64), evidence.predicted
    residuals = actual - predicted
    means = []
    for rows in _parts(predicted, 2 * BINS, FEWEST):
        low, high = np.quantile(actual[rows], [0.25, 0.75])
        mean, n = float(actual[rows].mean()), len(rows)
        half = float(t.ppf(0.5 + CONFIDENCE / 2, n - 1) * actual[rows].std(ddof=1) / n**0.5)
        told = {"predicted": predicted[rows].mean(), "actual": mean, "quarter": low, "three_quarters": high}
        means.append({"n": n, **{k: short(v) for k, v in {**told, "low": mean - half, "high": mean + half}.items()}})
    tail = max(FEWEST / len(residuals), 0.01) if len(residuals) else 1.0
    if tail >= 0.25:
        return {"predicted_actual": means, "residuals": [], "beyond": 0, "normal": []}
    low, high = np.quantile(residuals, [tail, 1 - tail])
    if 0 < high - low < 1e-9 * max(abs(low), abs(high)):  # one number but for its last digits: no bins can part it
        low = high = float(np.median(residuals))
        residuals = np.full(len(residuals), low)
    inside = residuals[(residuals >= low) & (residuals <= high)]
    counts, edges = np.histogram(inside, bins=2 * BINS, range=(low, high))
    shares = np.linspace(tail, 1 - tail, 41)
    scale = float(residuals.std(ddof=1)) or 1.0
    quantiles = (np.quantile(residuals, shares) - residuals.mean()) / scale
    return {
        "predicted_actual": means,
        "residuals": merged(counts.tolist(), edges.tolist()),
        "beyond": len(residuals) - len(inside),
        "normal": [(short(a), short(b)) for a, b in zip(norm.ppf(shares), quantiles, strict=True)],
    }


def _forecast(evidence: Evidence) -> dict[str, Any]:
    """Its course over the held-out time, and each step of the season: means of ``FEWEST`` rows and more."""
    import numpy as np

    serial = evidence.serial
    if serial is None:
        return {}
    y, forecast, prior = evidence.y.astype(np.float64), evidence.predicted, evidence.prior
    if evidence.quantiles:
        prior = prior[:, evidence.quantiles.index(MEDIAN)]
    error, naive = np.abs(forecast - y), np.abs(prior - y)

    def means(rows: np.ndarray) -> dict[str, float]:
        told = {"actual": y, "forecast": forecast, "error": error, "naive_error": naive}
        return {"n": len(rows), **{name: short(values[rows].mean()) for name, values in told.items()}}

    number = serial.number - serial.number.min()
    course = [
        {"from": int(number[rows].min()), "to": int(number[rows].max()), **means(rows)}
        for rows in _periods(number, serial.season)
    ]
    phase = serial.number % serial.season
    phases = [{"phase": int(one), **means(np.flatnonzero(phase == one))} for one in np.unique(phase)]
    told = phases if 1 < serial.season <= PERIODS and all(one["n"] >= FEWEST for one in phases) else []
    return {"course": course, "phases": told}


def _periods(number: np.ndarray, season: int) -> list[np.ndarray]:
    """Row indices by time, in parts of whole seasons where there are ten of them: their rhythm is not drawn."""
    import numpy as np

    span = int(number.max()) + 1
    if span < 10 * season:
        return _parts(number, PERIODS, FEWEST)
    part = number // (season * -(-span // (PERIODS * season)))
    found = [np.flatnonzero(part == one) for one in np.unique(part)]
    return [rows for rows in found if len(rows) >= FEWEST]


def _parts(scores: np.ndarray, bins: int, fewest: int) -> list[np.ndarray]:
    """Row indices by rising score, in at most ``bins`` parts of ``fewest`` rows and more; ties stay together."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    wanted = max(fewest, -(-len(order) // bins), 1)
    parts: list[np.ndarray] = []
    start = 0
    while start < len(order):
        end = min(start + wanted, len(order))
        while end < len(order) and scores[order[end]] == scores[order[end - 1]]:
            end += 1
        end = len(order) if len(order) - end < fewest else end
        parts.append(order[start:end])
        start = end
    return [part for part in parts if len(part) >= fewest]


def merged(counts: list[int], edges: list[float]) -> list[dict[str, float]]:
    """A histogram whose bins hold ``FEWEST`` rows and more: what holds fewer joins its right neighbour."""
    found: list[dict[str, float]] = []
    low, n = edges[0], 0
    for count, high in zip(counts, edges[1:], strict=True):
        n += count
        if n >= FEWEST:
            found.append({"low": short(low), "high": short(high), "n": n})
            low, n = high, 0
    if n and found:
        found[-1] = {**found[-1], "high": short(edges[-1]), "n": found[-1]["n"] + n}
    return found


def short(value: float) -> float:
    """Six significant digits: more are not seen."""
    return float(f"{value:.6g}")
