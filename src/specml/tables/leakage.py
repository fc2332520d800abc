"""What tells the target too well: a column alone, a sum of some, rows or people on both sides of the split.

A column is judged by the training rows only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.data import looks_back
from specml.evidence import Verdict
from specml.tables import splits
from specml.tables.strength import sampled, strengths

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.batches import Batches
    from specml.data import Layout
    from specml.spec import Spec
    from specml.tables.checks import Findings

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


def single_columns(spec: Spec, layout: Layout, train: pl.DataFrame, findings: Findings) -> dict[str, float]:
    """One column alone tells the target better than it may, or some add up to it; how well each does.

    Past values are not judged alone.
    """
    check, where = spec.data.checks.leakage, "data.checks.leakage"
    sample, by = sampled(layout, train), layout.folding
    key = splits.fold_column(spec.data.split, sample, by).to_numpy() if by.column else None
    scores = strengths(layout, sample, key)
    # What was before is known when the model is asked, however well it tells what comes.
    judged = {name: one for name, one in scores.items() if not looks_back(name)}
    if sample.height < FEWEST or not judged:
        reason = f"{sample.height} training rows are too few to tell a leak from chance."
        if not judged:
            reason = "every column is of earlier rows, which nothing in the row itself has told."
        findings.add(where, Verdict(outcome="not measured", reason=reason, n=sample.height), check.level)
        return scores
    best = max(judged, key=lambda name: judged[name])
    what = "R²" if layout.task == "regression" else "ROC AUC"
    verdict: dict[str, Any] = {"n": sample.height, "value": judged[best], "threshold": f"≤ {check.max:g} ({what})"}
    too_good = sorted((name for name in judged if judged[name] > check.max), key=lambda name: -judged[name])
    if too_good:
        each = ", ".join(f"{name} ({judged[name]:.4f})" for name in too_good[:5])
        reason = f"alone, of {len(judged):,} columns, tell {layout.target}: {each}."
    elif check.max < 1 and (summands := _sum(layout, sample, sample[layout.target].to_numpy())):
        too_good = summands
        reason = f"{' and '.join(summands)} add up to {layout.target} in every row."
        verdict["value"] = 1.0
    else:
        reason = f"the column that tells most alone is {best}: {what} {judged[best]:.4f}."
    name = next((one for one in too_good if not looks_back(one)), "")
    hint = (
        f"Is it known when the model is asked? If not: data.columns.{name}.known_after: event. If it is: {where}.max, "
        "or level: warn."
    )
    verdict["outcome"] = "refused" if too_good else "holds"
    findings.add(where, Verdict(reason=reason, **verdict), check.level, hint)
    if judged[best] > STRONG and not too_good:
        findings.notes.append(f"{where}: {reason} Is it known when the model is asked?")
    return scores


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
    names = [column.name for column, taken in zip(numeric, chosen, strict=True) if taken]
    return [] if all(map(looks_back, names)) else names


def across(spec: Spec, layout: Layout, train: Batches, held: pl.DataFrame, findings: Findings) -> None:
    """Rows, or what is declared an id, that stand on both sides of the split; a time that the split does not heed.

    ``held``: held-out rows, ``ROWS`` of them where there are more.
    """
    check, where = spec.data.checks.overlap, "data.checks.overlap"
    names = [*(column.name for column in layout.features), layout.target]
    both = held.join(_met(train, held.select(names)), on=names, how="semi", nulls_equal=True).height
    what = "{bad} of {of} held-out rows stand among the training rows, value for value."
    findings.count(where, both, held.height, check, what)
    if spec.data.split.method not in CHANCE:
        return
    for name in spec.with_role("id"):
        if name != spec.data.split.column and name in held.columns:
            _shared(train, held.select(name).drop_nulls(), held.height, findings)
    times = [name for name in spec.with_role("time") if name in held.columns]
    if times:
        reason = f"there are times ({', '.join(times)}), but rows later than held-out ones train the model."
        hint = f"Say data.split: {{method: time, column: {times[0]}}} if the model is to foresee."
        verdict = Verdict(outcome="refused", reason=f"{reason} {hint}", threshold="none later")
        findings.add("data.split.method", verdict, "warn")


def _met(train: Batches, held: pl.DataFrame) -> pl.DataFrame:
    """Those of some rows that stand among the training rows, each once."""
    import polars as pl

    known, names = held.unique(), held.columns
    found = [batch.join(known, on=names, how="semi", nulls_equal=True).unique() for batch in train.only(names)]
    return pl.concat(found).unique()


def _shared(train: Batches, held: pl.DataFrame, rows: int, findings: Findings) -> None:
    (name,) = held.columns
    both = held.join(_met(train, held), on=name, how="semi").height
    if both:
        reason = (
            f"{both:,} of {rows:,} held-out rows share their {name} with a training row: the model knows them. "
            f"Say data.split: {{method: group, column: {name}}}"
        )
        verdict = Verdict(outcome="refused", reason=reason, value=both, n=rows, threshold="≤ 0 rows")
        findings.add(f"data.columns.{name}.role", verdict, "warn")
