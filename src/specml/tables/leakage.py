"""What tells the target too well: a column alone, a sum of some, rows or people on both sides of the split.

A column is judged by the training rows only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from specml.evidence import Verdict

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.data import Layout
    from specml.spec import Spec
    from specml.tables.checks import Findings

ROWS = 20_000
"""Rows that are looked at, evenly spaced."""
CELLS = 10_000_000
"""Values that are; very wide tables are judged by fewer rows."""
BINS = 50
"""Bins of as many rows each; numbers of fewer values have one for each."""
SUMMANDS = 300
"""Most numeric columns among which a sum is looked for."""
EXACT = 1e-6
"""Relative distance up to which a sum is the target: the columns may have been rounded to float32."""
FEWEST = 50
"""Rows of which one column among many may tell the target by chance."""
STRONG = 0.95
"""What a single column may reach without a word."""
CHANCE = ("auto", "random", "stratified", "group", "hash")
"""Splits that put a row on either side whatever its time."""


def single_columns(spec: Spec, layout: Layout, train: pl.DataFrame, findings: Findings) -> None:
    """One column alone tells the target better than it may, or some add up to it."""
    check, where = spec.data.checks.leakage, "data.checks.leakage"
    sample = _sample(train, max(2, min(ROWS, CELLS // len(layout.features))))
    if sample.height < FEWEST:
        reason = f"{sample.height} training rows are too few to tell a leak from chance."
        findings.add(where, Verdict(outcome="not measured", reason=reason, n=sample.height), check.level)
        return
    y = sample[layout.target].to_numpy()
    scores = {column.name: alone(sample[column.name], y, layout) for column in layout.features}
    best = max(scores, key=lambda name: scores[name])
    what = "R²" if layout.task == "regression" else "ROC AUC"
    verdict: dict[str, Any] = {"n": sample.height, "value": scores[best], "threshold": f"≤ {check.max:g} ({what})"}
    too_good = sorted((name for name in scores if scores[name] > check.max), key=lambda name: -scores[name])
    if too_good:
        each = ", ".join(f"{name} ({scores[name]:.4f})" for name in too_good[:5])
        reason = f"alone, of {len(scores):,} columns, tell {layout.target}: {each}."
    elif summands := _sum(layout, sample, y) if check.max < 1 else []:
        too_good = summands
        reason = f"{' and '.join(summands)} add up to {layout.target} in every row."
        verdict["value"] = 1.0
    else:
        reason = f"the column that tells most alone is {best}: {what} {scores[best]:.4f}."
    name = too_good[0] if too_good else ""
    hint = (
        f"Is it known when the model is asked? If not: data.columns.{name}.known_after: event. If it is: {where}.max, "
        "or level: warn."
    )
    verdict["outcome"] = "refused" if too_good else "holds"
    findings.add(where, Verdict(reason=reason, **verdict), check.level, hint)
    if scores[best] > STRONG and not too_good:
        findings.notes.append(f"{where}: {reason} Is it known when the model is asked?")


def _sample(table: pl.DataFrame, rows: int) -> pl.DataFrame:
    """At most so many rows, evenly spaced."""
    import numpy as np

    if table.height <= rows:
        return table
    return table[np.unique(np.linspace(0, table.height - 1, rows).astype(int))]


def alone(x: pl.Series, y: np.ndarray, layout: Layout) -> float:
    """How well the column ``x`` alone tells ``y``.

    For classes the area under the ROC curve, 0.5 to 1, of the class that it tells worst; for a regression R², 0 to 1.
    Numbers are taken by their ranks, missing ones as least and as largest, and as the mean target of their bin;
    categories as the mean target of theirs, each from the half of the rows that the value itself is not in.
    """
    import numpy as np
    import polars as pl

    numbers = None if x.dtype == pl.String else x.cast(pl.Float64).to_numpy()
    groups = np.unique(x.to_numpy().astype(str), return_inverse=True)[1] if numbers is None else _bins(numbers)
    if layout.task == "regression":
        found = [_r_squared(_out_of_half(groups, y), y)]
        if numbers is not None:
            found += [_correlation(numbers, y) ** 2, _correlation(_ranks(numbers), _ranks(y)) ** 2]
        return float(max(found))
    worst = 1.0
    for label in [1] if len(layout.classes) == 2 else range(len(layout.classes)):
        positive = (y == label).astype(np.float64)
        found = [0.5, _auc(_out_of_half(groups, positive), positive)]
        if numbers is not None:
            ends = (-np.inf, np.inf) if np.isnan(numbers).any() else (0.0,)
            ranked = [_auc(np.nan_to_num(numbers, nan=end), positive) for end in ends]
            found += [max(one, 1 - one) for one in ranked]
        worst = min(worst, max(found))
    return float(worst)


def _bins(values: np.ndarray) -> np.ndarray:
    """int64 [n], the bin of each number; missing ones have their own."""
    import numpy as np

    known = values[~np.isnan(values)]
    edges = np.unique(known)
    if len(edges) > BINS:
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]))
    return np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))


@lru_cache(maxsize=1)
def _half(n: int) -> np.ndarray:
    """Bool [n], true for half of the rows by chance."""
    import numpy as np

    return np.asarray(np.random.default_rng(0).permutation(n) % 2 == 0)


def _out_of_half(groups: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each row the mean ``y`` of its group in the other half of the rows; of that half where it has none there."""
    import numpy as np

    out, half, n = np.empty(len(y)), _half(len(y)), int(groups.max()) + 1
    for inside in (half, ~half):
        counts = np.bincount(groups[~inside], minlength=n)
        sums = np.bincount(groups[~inside], weights=y[~inside], minlength=n)
        means = np.divide(sums, counts, out=np.full(n, y[~inside].mean()), where=counts > 0)
        out[inside] = means[groups[inside]]
    return out


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks of the known values; NaN stays."""
    import numpy as np
    from scipy.stats import rankdata

    return np.asarray(rankdata(values, nan_policy="omit"), dtype=np.float64)


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


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's, where both are known in at least half of the rows."""
    import numpy as np

    known = ~np.isnan(x) & ~np.isnan(y)
    x, y = x[known], y[known]
    if 2 * len(x) < len(known) or len(x) < 3 or not (x.std() and y.std()):
        return 0.0
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))


def _sum(layout: Layout, sample: pl.DataFrame, y: np.ndarray) -> list[str]:
    """Columns that, added or subtracted, are the target in every row in which they are known."""
    import numpy as np
    import polars as pl

    numeric = [column for column in layout.features if column.kind == "numeric"]
    if layout.task != "regression" or not 2 <= len(numeric) <= SUMMANDS:
        return []
    X = np.column_stack([sample[column.name].cast(pl.Float64).to_numpy() for column in numeric])
    X = X[:, often := np.isnan(X).mean(axis=0) < 0.5]
    numeric = [column for column, usual in zip(numeric, often, strict=True) if usual]
    known = ~np.isnan(X).any(axis=1)
    X, y = X[known], y[known]
    if len(y) < 2 * len(numeric) + 50:
        return []
    scale = np.abs(X).max(axis=0) + 1e-300
    weights = np.linalg.lstsq(np.column_stack([X / scale, np.ones(len(y))]), y, rcond=None)[0][:-1] / scale
    rounded = np.round(weights)
    chosen = np.abs(rounded) == 1
    off = np.abs(X[:, chosen] @ rounded[chosen] - y).max() if chosen.any() else np.inf
    if off > EXACT * max(1.0, float(np.abs(y).max())) or chosen.sum() < 2:
        return []
    return [column.name for column, taken in zip(numeric, chosen, strict=True) if taken]


def across(spec: Spec, layout: Layout, train: pl.DataFrame, test: pl.DataFrame, findings: Findings) -> None:
    """Rows, or what is declared an id, that stand on both sides of the split; a time that the split does not heed."""
    check, where = spec.data.checks.overlap, "data.checks.overlap"
    names = [*(column.name for column in layout.features), layout.target]
    held = _sample(test, ROWS).select(names)
    # Only what both have is kept of the training rows, which may be many.
    same = train.lazy().select(names).join(held.lazy(), on=names, how="semi", nulls_equal=True).unique().collect()
    both = held.join(same, on=names, how="semi", nulls_equal=True).height
    reason = f"{both:,} of {held.height:,} held-out rows stand among the training rows, value for value."
    findings.count(where, both, held.height, check, reason)
    if spec.data.split.method not in CHANCE:
        return
    for name in spec.with_role("id"):
        if name != spec.data.split.column and name in train.columns and train[name].n_unique() < train.height:
            _shared(name, train[name], test[name], findings)
    times = [name for name in spec.with_role("time") if name in train.columns]
    if times:
        reason = f"there are times ({', '.join(times)}), but rows later than held-out ones train the model."
        hint = f"Say data.split: {{method: time, column: {times[0]}}} if the model is to foresee."
        verdict = Verdict(outcome="refused", reason=f"{reason} {hint}", n=train.height, threshold="none later")
        findings.add("data.split.method", verdict, "warn", hint)


def _shared(name: str, train: pl.Series, test: pl.Series, findings: Findings) -> None:
    both = int(test.is_in(train.drop_nulls().unique().implode()).sum())
    if both:
        reason = (
            f"{both:,} of {len(test):,} held-out rows share their {name} with a training row: the model knows them. "
            f"Say data.split: {{method: group, column: {name}}}"
        )
        verdict = Verdict(outcome="refused", reason=reason, value=both, n=len(test), threshold="≤ 0 rows")
        findings.add(f"data.columns.{name}.role", verdict, "warn")
