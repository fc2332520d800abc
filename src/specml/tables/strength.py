"""How well each column alone tells the target, by training rows that are divided as the folds are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.curves import FEWEST
from specml.data import TEXTS
from specml.tables import splits
from specml.tables.parts import numbers

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.data import Column, Folding, Layout

ROWS = 20_000
"""Rows that are looked at, evenly spaced."""
CELLS = 10_000_000
"""Values that are: of wide tables fewer rows are taken, but not fewer than ``ENOUGH``."""
ENOUGH = 1000
BINS = 50
"""Bins of as many rows each; numbers of fewer values have one for each."""


def evenly(table: pl.DataFrame, rows: int) -> pl.DataFrame:
    """At most so many rows, evenly spaced."""
    import numpy as np

    if table.height <= rows:
        return table
    return table[np.unique(np.linspace(0, table.height - 1, rows).astype(int))]


def sampled(layout: Layout, train: pl.DataFrame) -> pl.DataFrame:
    """The training rows in which relations are looked for."""
    return evenly(train, max(ENOUGH, min(ROWS, CELLS // len(layout.features))))


def strengths(layout: Layout, sample: pl.DataFrame, key: np.ndarray | None) -> dict[str, float]:
    """Of each feature how well it alone tells the target; ``key``: what ``splits.fold_column`` makes of the rows.

    Raises:
        NotEnoughData: the rows are of one group, and folds go by it.
    """
    y = sample[layout.target].to_numpy()
    half = halves(layout.folding, key, y)
    return {column.name: alone(sample[column.name], column, y, layout, half) for column in layout.features}


def halves(folding: Folding, key: np.ndarray | None, y: np.ndarray) -> np.ndarray:
    """Bool [n], true for about half of the rows: by chance, or as folds divide them, so that a group is in one."""
    import numpy as np

    if key is None:
        return np.asarray(np.random.default_rng(0).permutation(len(y)) % 2 == 0)
    half = np.zeros(len(y), dtype=bool)
    half[splits.divide(folding, key, y, 0.5, seed=0)[1]] = True
    return half


def alone(values: pl.Series, column: Column, y: np.ndarray, layout: Layout, half: np.ndarray) -> float:
    """How well a column of the prepared tables alone tells ``y``; ``half``: see ``halves``.

    For classes the area under the ROC curve, 0.5 to 1, of the class that it tells worst; for a regression R², 0 to 1.
    Numbers, and texts by their length, are taken by their ranks, missing ones as least and as largest, and as the mean
    target of their bin; categories, and texts as such, as the mean target of theirs, each from the half of the rows
    that the value itself is not in.
    """
    import numpy as np

    groups = [splits.codes(values)] if column.kind in TEXTS else []
    x = None if column.kind == "categorical" else numbers(values, column)
    if x is not None:
        groups.append(_bins(x))
    if layout.task == "regression":
        found = [_r_squared(_out_of_half(one, y, half), y) for one in groups]
        if x is not None and 2 * np.isnan(x).sum() <= len(x):
            found += [correlation(x, y) ** 2, correlation(ranks(x), ranks(y)) ** 2]
        return float(max(found))
    worst = 1.0
    for label in [1] if len(layout.classes) == 2 else range(len(layout.classes)):
        positive = (y == label).astype(np.float64)
        found = [0.5, *(_auc(_out_of_half(one, positive, half), positive) for one in groups)]
        if x is not None:
            ends = (-np.inf, np.inf) if np.isnan(x).any() else (0.0,)
            ranked = [_auc(np.nan_to_num(x, nan=end, posinf=np.inf, neginf=-np.inf), positive) for end in ends]
            found += [max(one, 1 - one) for one in ranked]
        worst = min(worst, max(found))
    return float(worst)


def _bins(values: np.ndarray) -> np.ndarray:
    """int64 [n], the bin of each number; missing ones have their own."""
    import numpy as np

    known = values[~np.isnan(values)]
    edges = np.unique(known)
    if len(edges) > BINS:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))


def _out_of_half(groups: np.ndarray, y: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Of each row the mean ``y`` of its group in the other half of the rows; of that half where it has none there."""
    import numpy as np

    out, n = np.empty(len(y)), int(groups.max()) + 1
    for inside in (half, ~half):
        counts = np.bincount(groups[~inside], minlength=n)
        sums = np.bincount(groups[~inside], weights=y[~inside], minlength=n)
        means = np.divide(sums, counts, out=np.full(n, y[~inside].mean()), where=counts > 0)
        out[inside] = means[groups[inside]]
    return out


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks of the finite values, float64 [n]; the others are NaN."""
    import numpy as np
    from scipy.stats import rankdata

    finite = np.where(np.isfinite(values), values, np.nan)
    return np.asarray(rankdata(finite, nan_policy="omit"), dtype=np.float64)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, -1 to 1, over the rows in which both are finite; 0 where these are fewer than ten, or all the same."""
    import numpy as np

    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < FEWEST:
        return 0.0
    a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(float(a @ b) / spread, -1, 1)) if spread else 0.0


def _auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve, from the rank sum (Mann and Whitney 1947); 0.5 where a class lacks."""
    import numpy as np
    from scipy.stats import rankdata

    n = int(positive.sum())
    if n in (0, len(positive)):
        return 0.5
    ranks = np.asarray(rankdata(scores), dtype=np.float64)
    return float((ranks[positive == 1].sum() - n * (n + 1) / 2) / (n * (len(positive) - n)))


def _r_squared(predicted: np.ndarray, y: np.ndarray) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return max(0.0, 1 - float(((y - predicted) ** 2).sum()) / spread) if spread else 0.0
