"""How columns go with the target, with each other and with time, in the training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.curves import FEWEST, short
from specml.evidence import stability_index, wilson
from specml.tables.parts import Parts, numbers, of_categories, parts
from specml.tables.strength import correlation, ranks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import polars as pl

    from specml.data import Column, Layout

CONFIDENCE = 0.95
MOST_CLASSES = 6
"""Classes whose rates are told, the commonest."""
COMPARED = 30
"""Columns that are compared with each other."""
CATEGORIES = 50
"""Categories of a column that are told apart then; the rest are one."""
PERIODS = 8


def shown_classes(y: np.ndarray, layout: Layout) -> list[int]:
    """The classes whose rates are told: the positive one, or the commonest; none for a regression."""
    import numpy as np

    if layout.task == "binary":
        return [1]
    if layout.task == "regression":
        return []
    counts = np.bincount(y, minlength=len(layout.classes))
    return sorted(np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist())


def by_part(found: Parts, y: np.ndarray, layout: Layout) -> list[dict[str, Any]]:
    """Of each part its ``name``, rows ``n`` and ``rates``: of each shown class, or the mean target, with interval."""
    classes = shown_classes(y, layout)
    told = []
    for place, name in enumerate(found.names):
        inside = y[found.codes == place]
        rates = [_rate(inside == one) for one in classes] or [_mean(inside)]
        told.append({"name": name, "n": len(inside), "rates": rates})
    return told


def _rate(hits: np.ndarray) -> tuple[float, float, float]:
    """A share and its interval (Wilson 1927)."""
    interval = wilson(float(hits.sum()), len(hits), CONFIDENCE)
    return short(float(hits.mean())), short(interval.low), short(interval.high)


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    """A mean and its interval, by the normal distribution."""
    import numpy as np
    from scipy.stats import norm

    half = float(norm.ppf(0.5 + CONFIDENCE / 2) * np.std(values, ddof=1) / np.sqrt(len(values)))
    mean = float(values.mean())
    return short(mean), short(mean - half), short(mean + half)


def groups(values: pl.Series, y: np.ndarray, layout: Layout) -> dict[str, Any]:
    """Of each group of a protected column with ten rows and more what ``by_part`` tells; how many are ``small``."""
    found = of_categories(values, most=len(values), rest=False)
    counts = values.alias("value").value_counts(name="n")
    small = counts.filter(counts["n"] < FEWEST)
    return {
        "groups": by_part(found, y, layout),
        "small": {"groups": small.height, "rows": int(small["n"].sum())},
    }


def associations(table: pl.DataFrame, columns: Sequence[Column]) -> dict[str, Any]:
    """How columns go with each other, 0 to 1, of two numbers with a sign: ``names`` [k], ``values`` [k][k].

    Two numbers: Spearman's rank correlation. A number and categories: the correlation ratio of the ranks, the root of
    Kruskal and Wallis' H over n - 1. Two categories: Cramér's V, less what chance adds (Bergsma 2013, *Journal of the
    Korean Statistical Society* 42:323-328). Over the rows in which both are known.
    """
    import numpy as np

    ranked, codes = dict[int, Any](), dict[int, Any]()
    for place, column in enumerate(columns):
        if column.kind == "categorical":
            codes[place] = of_categories(table[column.name], CATEGORIES).codes
        else:
            ranked[place] = ranks(numbers(table[column.name], column))
    out = np.eye(len(columns))
    for a in range(len(columns)):
        for b in range(a):
            if a in ranked and b in ranked:
                value = correlation(ranked[a], ranked[b])
            elif a in codes and b in codes:
                value = _cramer(codes[a], codes[b])
            else:
                number, category = (a, b) if a in ranked else (b, a)
                value = _ratio(ranked[number], codes[category])
            out[a, b] = out[b, a] = value
    return {"names": [column.name for column in columns], "values": [[short(one) for one in row] for row in out]}


def _ratio(ranks: np.ndarray, codes: np.ndarray) -> float:
    import numpy as np

    both = ~np.isnan(ranks) & (codes >= 0)
    if both.sum() < FEWEST:
        return 0.0
    ranks, codes = ranks[both], codes[both]
    counts = np.bincount(codes)
    means = np.divide(np.bincount(codes, weights=ranks), counts, out=np.zeros(len(counts)), where=counts > 0)
    spread = float(((ranks - ranks.mean()) ** 2).sum())
    return float(np.sqrt((counts * (means - ranks.mean()) ** 2).sum() / spread)) if spread else 0.0


def _cramer(a: np.ndarray, b: np.ndarray) -> float:
    import numpy as np

    both = (a >= 0) & (b >= 0)
    n = int(both.sum())
    if n < FEWEST:
        return 0.0
    (_, a), (_, b) = np.unique(a[both], return_inverse=True), np.unique(b[both], return_inverse=True)
    r, k = int(a.max()) + 1, int(b.max()) + 1
    counts = np.bincount(a * k + b, minlength=r * k).reshape(r, k)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    phi = float(((counts - expected) ** 2 / expected).sum()) / n
    phi = max(0.0, phi - (r - 1) * (k - 1) / (n - 1))
    least = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(phi / least)) if least > 0 else 0.0


def over_time(
    table: pl.DataFrame, columns: Sequence[Column], times: np.ndarray, y: np.ndarray, layout: Layout
) -> dict[str, Any] | None:
    """What changes from the first of ``PERIODS`` of equally many rows on; None where there are not two.

    ``target``: as ``by_part`` of each period; ``columns``: by name the population stability index of each later period
    against the first (Siddiqi 2006, *Credit Risk Scorecards*: from 0.1 on some, from 0.25 on a marked shift).
    """
    import numpy as np
    from scipy.stats import rankdata

    period = ((rankdata(times, method="min") - 1) * PERIODS // len(times)).astype(np.int64)
    present, period = np.unique(period, return_inverse=True)
    counts = np.bincount(period)
    if len(present) < 2 or int(counts.min()) < FEWEST:
        return None
    found = Parts(period, tuple(f"{place + 1}" for place in range(len(present))))
    shifts: Mapping[str, list[float]] = {
        column.name: _shifts(parts(table[column.name], column), period, len(present)) for column in columns
    }
    return {"target": by_part(found, y, layout), "columns": shifts}


def _shifts(found: Parts, period: np.ndarray, periods: int) -> list[float]:
    """The population stability index of each period but the first; half a row is added to each part."""
    import numpy as np

    k = len(found.names)
    if k < 2:
        return [0.0] * (periods - 1)
    shares = []
    for one in range(periods):
        inside = found.codes[(period == one) & (found.codes >= 0)]
        counts = np.bincount(inside, minlength=k) + 0.5
        shares.append(counts / counts.sum())
    return [short(stability_index(now, shares[0])) for now in shares[1:]]
