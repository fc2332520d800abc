"""Describe the training rows: what a person should know before believing a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specml.data import MISSING, Layout, watched
from specml.files import canonical_json, write_atomic
from specml.plan import Plot, Stage
from specml.stages import prepare

if TYPE_CHECKING:
    import polars as pl

    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/explore/columns.json"
TARGET = "plots/target.csv"
BINS = 20
ROUNDING = 1e-6
"""Relative distance by which values count as equal: float32 has seven digits."""


def declare(spec: Spec) -> Stage:
    """Looks at the training rows only."""
    template, y = ("bar_horizontal", "value") if spec.problem.task != "regression" else ("simple", "rows")
    x = "rows" if spec.problem.task != "regression" else "value"
    return Stage(
        name="explore",
        summary="describe the training rows",
        deps=(prepare.TRAIN, prepare.LAYOUT),
        outs=(OUT,),
        plots=(Plot(TARGET, template, x, y, f"Training rows by {spec.problem.target}"),),
    )


def work(work: Work) -> None:
    """Columns → their distributions; target → a plot."""
    import polars as pl

    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    train = pl.read_parquet(work.path(prepare.TRAIN))
    columns = {column.name: describe(watched(train[column.name], column)) for column in layout.features}
    for column in layout.features:
        if column.kind == "datetime":  # time moves on: that it does is no drift
            columns[column.name]["kind"] = "datetime"
    write_atomic(work.path(OUT), canonical_json(columns))
    write_atomic(work.path(TARGET), _target(layout, train))
    gaps = [name for name, told in columns.items() if told["missing"] > 0]
    work.say(f"{len(columns)} columns described, {len(gaps)} with missing values")


def describe(values: pl.Series) -> dict[str, Any]:
    """A column's distribution: ``rows``, ``missing`` (share), and quantiles at twentieths, or the shares of categories.

    Of numbers also ``cumulative``: the share of the known values that are at most each of some edges, exactly.
    """
    import polars as pl

    n = len(values)
    if values.dtype == pl.String:
        counts = values.value_counts(sort=False).sort(["count", values.name], descending=[True, False])
        shares = {str(name): count / n for name, count in counts.rows() if name != MISSING}
        return {
            "kind": "categorical",
            "rows": n,
            "missing": (values == MISSING).sum() / n,
            "distinct": len(shares),
            "shares": dict(list(shares.items())[:100]),
        }
    known = values.cast(pl.Float64).drop_nulls()
    quantiles = [known.quantile(i / BINS, "nearest") or 0.0 for i in range(BINS + 1)] if len(known) else []
    return {
        "kind": "numeric",
        "rows": n,
        "missing": values.null_count() / n,
        "distinct": known.n_unique(),
        "mean": _finite(known.mean()),
        "std": _finite(known.std(ddof=0)),
        "quantiles": quantiles,
        "cumulative": _cumulative(known, quantiles[2:-1:2]),
    }


def _cumulative(known: pl.Series, deciles: list[float]) -> list[tuple[float, float]]:
    """(edge, share of the values at most it) at each decile; a decile with a mass of its own has an edge below, too.

    Edges stand a little beside the values, so that one that was rounded to float32 stays on its side.
    """

    def share(matching: pl.Series) -> float:
        return int(matching.sum()) / len(known)

    edges = set()
    for value in set(deciles):
        edges.add(value + ROUNDING * abs(value))
        if share(known == value) > 1 / BINS:
            edges.add(math.nextafter(value, -math.inf) - ROUNDING * abs(value))
    return [(edge, share(known <= edge)) for edge in sorted(edges) if math.isfinite(edge)]


def _finite(value: Any) -> float | None:
    """None for what overflows, or is the statistic of nothing."""
    return float(value) if value is not None and math.isfinite(value) else None


def _target(layout: Layout, train: pl.DataFrame) -> str:
    import numpy as np
    import polars as pl

    values = train[layout.target].to_numpy()
    if layout.task == "regression":
        counts, edges = np.histogram(values, bins=BINS)
        rows = [(f"{(a + b) / 2:g}", int(c)) for c, a, b in zip(counts, edges, edges[1:], strict=False)]
    else:
        counts = np.bincount(values, minlength=len(layout.classes))
        rows = [(str(label), int(c)) for label, c in zip(layout.classes, counts, strict=True)]
    return pl.DataFrame(rows, schema=["value", "rows"], orient="row").write_csv()
