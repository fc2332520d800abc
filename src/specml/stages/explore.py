"""Describe the training rows: what a person should know before believing a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specml.data import MISSING, Layout, watched
from specml.files import canonical_json, read_json, write_atomic
from specml.plan import Plot, Stage
from specml.stages import prepare
from specml.tables import parts, relations
from specml.tables.strength import sampled

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/explore/columns.json"
FACTS = "artifacts/explore/facts.json"
PROFILE = "artifacts/explore/profile.bin"
"""whylogs' profile of the features in the training rows, texts by their length."""
TARGET = "plots/target.csv"
BINS = 20
ROUNDING = 1e-6
"""Relative distance by which values count as equal: float32 has seven digits."""


def declare(spec: Spec) -> Stage:
    """Looks at the training rows only. Nothing depends on the profile: its sketches are random."""
    template, y = ("bar_horizontal", "value") if spec.problem.learns != "regression" else ("simple", "rows")
    x = "rows" if spec.problem.learns != "regression" else "value"
    return Stage(
        name="explore",
        summary="describe the training rows",
        deps=(prepare.TRAIN, prepare.LAYOUT, prepare.STRENGTHS),
        outs=(OUT, FACTS, PROFILE),
        plots=(Plot(TARGET, template, x, y, f"Training rows by {spec.problem.target}"),),
    )


def work(work: Work) -> None:
    """Columns → their distributions; target → a plot; all of it → what ``specml explore`` draws, and a profile."""
    import polars as pl

    from specml.profile import profile

    layout = Layout.model_validate_json(work.path(prepare.LAYOUT).read_bytes())
    train = pl.read_parquet(work.path(prepare.TRAIN))
    columns = {column.name: describe(watched(train[column.name], column)) for column in layout.features}
    for column in layout.features:
        if column.kind == "datetime":  # time moves on: that it does is no drift
            columns[column.name]["kind"] = "datetime"
    write_atomic(work.path(OUT), canonical_json(columns))
    write_atomic(work.path(TARGET), _target(layout, train))
    strengths = read_json(work.path(prepare.STRENGTHS))
    write_atomic(work.path(FACTS), canonical_json(facts(layout, train, strengths)))
    seen = [watched(train[column.name], column) for column in layout.features]
    write_atomic(work.path(PROFILE), profile(pl.DataFrame(seen)))
    gaps = [name for name, told in columns.items() if told["missing"] > 0]
    work.say(f"{len(columns)} columns described, {len(gaps)} with missing values")


def facts(layout: Layout, train: pl.DataFrame, strengths: dict[str, float]) -> dict[str, Any]:
    """What the page of ``specml explore`` tells of the training rows, as JSON values; ``strengths``: see ``prepare``.

    Everything in it is of ten rows and more. Of many rows some are looked at: ``sample`` says how many.
    """
    import numpy as np

    sample = sampled(layout, train)
    y = sample[layout.target].to_numpy()
    told = dict[str, Any]()
    for column in layout.features:
        values = sample[column.name]
        told[column.name] = {
            "kind": column.kind,
            "strength": strengths[column.name],
            "target": relations.by_part(parts.parts(values, column), y, layout),
        }
        if column.kind not in ("categorical", "boolean") and values.n_unique() > parts.MOST:
            told[column.name]["histogram"] = parts.bins(parts.numbers(values, column))
    strongest = sorted(layout.features, key=lambda column: (-strengths[column.name], column.name))
    return {
        "rows": train.height,
        "sample": sample.height,
        "classes": [layout.classes[one] for one in relations.shown_classes(y, layout)],
        "target": parts.bins(y)
        if layout.task == "regression"
        else np.bincount(y, minlength=len(layout.classes)).tolist(),
        "columns": told,
        "associations": relations.associations(sample, strongest[: relations.COMPARED]),
        "over_time": _over_time(layout, sample, y),
        "groups": {
            name: relations.groups(train[name], train[layout.target].to_numpy(), layout)
            if name in train.columns
            else None
            for name in layout.protected
        },
    }


def _over_time(layout: Layout, sample: pl.DataFrame, y: np.ndarray) -> dict[str, Any] | None:
    """By the time that orders the rows, else by the first feature that is one."""
    import numpy as np

    column, features = layout.folding.column, layout.features
    if layout.folding.method == "time" and column is not None:
        return relations.over_time(sample, features, sample[column].to_numpy(), y, layout)
    time = next((one for one in features if one.kind == "datetime"), None)
    if time is None:
        return None
    times = parts.numbers(sample[time.name], time)
    known, others = np.isfinite(times), [one for one in features if one.name != time.name]
    return relations.over_time(sample.filter(known), others, times[known], y[known], layout)


def describe(values: pl.Series) -> dict[str, Any]:
    """A column's distribution: ``rows``, ``missing`` (share), and quantiles at twentieths, or the shares of categories.

    Of numbers also ``cumulative``: the share of the known values that are at most each of some edges, exactly.
    """
    import polars as pl

    n = len(values)
    if values.dtype == pl.String:
        counts = values.alias("value").value_counts(sort=False).sort(["count", "value"], descending=[True, False])
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
