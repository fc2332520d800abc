"""Segments of a table's rows, by one column or by a few conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from specml.data import MISSING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import polars as pl

CATEGORIES = 20
"""Of a column, the commonest, by which the search may tell a segment."""


class Segment(NamedTuple):
    """Some rows, and what they have in common."""

    name: str
    """Of numbers rounded to three digits: no row's own value is told."""
    holds: np.ndarray
    """bool [n]."""


def by_category(column: str, values: pl.Series, fewest: int) -> Iterator[Segment]:
    """Each value with ``fewest`` rows or more, and the rest together."""
    import polars as pl

    texts = values.cast(pl.String).fill_null(MISSING)
    counts = texts.value_counts().sort("count", texts.name, descending=[True, False])
    common = counts.filter(pl.col("count") >= fewest)[texts.name].to_list()
    for name in common:
        told = "missing" if name == MISSING else name
        yield Segment(f"{column}={told}", (texts == name).to_numpy())
    if rest := counts.height - len(common):
        told = f"{column}={rest} rarer {'value' if rest == 1 else 'values'}"
        yield Segment(told, (~texts.is_in(common)).to_numpy())


def by_quantile(values: pl.Series, bins: int) -> Iterator[Segment]:
    """Bins of about equally many rows, by the values' quantiles, and the rows without one."""
    import numpy as np
    import polars as pl

    numbers = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = np.isfinite(numbers)
    edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, bins + 1)[1:-1])) if known.any() else np.empty(0)
    place = np.searchsorted(edges, numbers, side="left")
    for index in range(len(edges) + 1):
        low = f"> {edges[index - 1]:.3g}" if index else ""
        high = f"≤ {edges[index]:.3g}" if index < len(edges) else ""
        told = " and ".join(one for one in (low, high) if one)
        name = f"{values.name} {told}" if told else f"{values.name} known"
        if (holds := known & (place == index)).any():
            yield Segment(f"{name} (bin {index + 1} of {len(edges) + 1})", holds)
    if not known.all():
        yield Segment(f"{values.name}=missing", ~known)


class Search(NamedTuple):
    """How weak segments are looked for."""

    chooses: np.ndarray
    """bool [n]: the rows that may choose a segment; the others are to judge it."""
    most: int
    depth: int
    """Conditions of a segment, at most."""
    fewest: int
    """Rows that choose a segment, and rows that judge it."""


class Label(NamedTuple):
    """A column, or one of its categories."""

    column: str
    category: str = ""
    gaps: bool = False
    """Some of its numbers are missing."""


def discovered(table: pl.DataFrame, names: list[str], losses: np.ndarray, search: Search) -> list[Segment]:
    """The leaves of a regression tree on ``losses`` [n] that lose more than all rows do, from the worst on.

    By the columns of ``table`` that are in ``names``; the tree sees the rows that choose.
    """
    import numpy as np
    from sklearn.tree import DecisionTreeRegressor

    columns = [one for name in names for one in _conditions(table[name], search.fewest)]
    chooses = search.chooses
    if not columns or not np.isfinite(losses).all() or int(chooses.sum()) < 2 * search.fewest:
        return []
    X = np.stack([values for _, values in columns], axis=1).astype(np.float32)
    tree = DecisionTreeRegressor(max_depth=search.depth, min_samples_leaf=search.fewest, random_state=0)
    leaves, usual = tree.fit(X[chooses], losses[chooses]).apply(X), losses[chooses].mean()
    out = []
    for leaf in np.unique(leaves).tolist():
        inside = leaves == leaf
        mean = float(losses[inside & chooses].mean())
        if mean > usual and (inside & ~chooses).sum() >= search.fewest:
            out.append((-mean, leaf, Segment(_path(tree.tree_, leaf, [label for label, _ in columns]), inside)))
    return [segment for _, _, segment in sorted(out, key=lambda one: one[:2])[: search.most]]


def _conditions(values: pl.Series, fewest: int) -> Iterator[tuple[Label, np.ndarray]]:
    """A column as numbers: as it is, or of each of its commonest categories whether it is that."""
    import polars as pl

    if values.dtype.is_numeric() or values.dtype == pl.Boolean:
        numbers = values.cast(pl.Float64).fill_null(float("nan"))
        yield Label(values.name, gaps=bool(numbers.is_nan().any())), numbers.to_numpy()
        return
    if values.dtype.is_temporal():
        return
    texts = values.cast(pl.String).fill_null(MISSING)
    counts = texts.value_counts().sort("count", texts.name, descending=[True, False]).head(CATEGORIES)
    for name, count in counts.iter_rows():
        if count >= 2 * fewest:
            told = "missing" if name == MISSING else name
            yield Label(values.name, told), (texts == name).to_numpy().astype(float)


def _path(tree: Any, leaf: int, labels: list[Label]) -> str:
    """The conditions that lead to a leaf, of a number the narrowest of each side."""
    parent = {
        child: node
        for node in range(tree.node_count)
        for child in (tree.children_left[node], tree.children_right[node])
    }
    told: dict[tuple[Label, bool], str] = {}
    node = leaf
    while node:
        above = parent[node]
        label, left = labels[tree.feature[above]], bool(tree.children_left[above] == node)
        if label.category:
            what = f"{label.column}{'≠' if left else '='}{label.category}"
        else:
            gone = label.gaps and bool(tree.missing_go_to_left[above]) is left
            what = f"{label.column} {'≤' if left else '>'} {tree.threshold[above]:.3g}{' or missing' if gone else ''}"
        told.setdefault((label, left), what)
        node = above
    return " and ".join(reversed(told.values()))
