"""What a row is told of the rows before it: past values of columns, as columns of its own.

The rows before a row are those of its group whose time is strictly earlier: neither it nor another row of its time is
among them, and nothing that comes later can change what it is told.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from specml.casting import blank_as_missing, cast, finite
from specml.component import Block, Disagreement
from specml.data import MISSING, MONTHS, MOST_BACK, PastRows, looks_back, past
from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy as np
    import polars as pl

    from specml.data import Steps
    from specml.spec import Features, Spec

KEY = "history"
"""Under what a row of a request carries the rows before it."""


class History(Block):
    """Which rows lags and rolling windows look back at: the earlier ones, by ``data.split.column``."""

    by: tuple[str, ...] = ()
    """The columns that tell groups apart, as ``[store, product]``: a row is told of its own group only. None: all rows
    are one series."""


def needed(features: Features) -> dict[str, list[int]]:
    """By column, how many rows back its values are read by what derives, ascending."""
    found: dict[str, list[int]] = {}
    for name in features.read:
        if step := looks_back(name):
            found.setdefault(step[0], []).append(step[1])
    return {of: sorted(found[of]) for of in sorted(found)}


def disagreements(spec: Spec) -> Iterator[Disagreement]:
    """Histories that can't be told, or would tell what is not yet known; keys are paths from the root."""
    features, split = spec.features, spec.data.split
    wanted = needed(features)
    if not wanted:
        if features.history.by:
            what = "has no effect: no feature looks back."
            yield Disagreement(key=("features", "history", "by"), what=what)
        return
    first = next(name for name, one in sorted(features.derive.items()) if any(map(looks_back, one.reads())))
    path = ("features", "derive", first)
    if split.method != "time":
        what = f"looks back, but data.split.method is {split.method!r}: held-out rows would be in its history."
        yield Disagreement(key=path, what=what, hint="Say data.split: {method: time, column: …}")
    elif split.folds.method not in ("auto", "time"):
        what = f"is {split.folds.method!r}, but features.derive.{first} looks back: a fold's rows would be told others."
        yield Disagreement(key=("data", "split", "folds", "method"), what=what, hint="Leave it out, or say time.")
    for name, one in features.derive.items():
        if (far := max((step[1] for step in map(looks_back, one.reads()) if step), default=0)) > MOST_BACK:
            what = f"reads {far} rows back; the most is {MOST_BACK}."
            yield Disagreement(key=("features", "derive", name), what=what)
    asked = spec.problem.forecast
    late = spec.data.labels.delay is not None and (asked is None or spec.data.labels.delay > asked.embargo)
    if spec.problem.target in wanted and late:
        what = (
            f"reads past values of the target, {spec.problem.target!r}, but data.labels.delay says that a label is "
            f"known {spec.data.labels.delay} later: that of an earlier row may not be known yet."
        )
        key = next(name for name, one in sorted(features.derive.items()) if _reads(one.reads(), spec.problem.target))
        yield Disagreement(key=("features", "derive", key), what=what, hint="Look back at another column.")
    yield from _by(spec)


def _reads(names: Iterable[str], of: str) -> bool:
    return any(step[0] == of for step in map(looks_back, names) if step)


def _by(spec: Spec) -> Iterator[Disagreement]:
    by = spec.features.history.by
    for place, name in enumerate(by):
        key, role = ("features", "history", "by", place), spec.column(name).role
        if name in by[:place]:
            yield Disagreement(key=key, what=f"names {name!r} twice.")
        elif spec.data.undeclared == "drop" and role != "target" and name not in spec.data.columns:
            what, hint = f"names {name!r}, which undeclared: drop forgets.", f"Declare data.columns.{name}.role: id"
            yield Disagreement(key=key, what=what, hint=hint)
        elif role not in ("id", "feature"):
            hint = (
                f"Declare data.columns.{name}.role: id" if role == "ignore" else "Name one whose role is id or feature."
            )
            yield Disagreement(key=key, what=f"names {name!r}, whose role is {role}.", hint=hint)


def past_rows(spec: Spec, features: Features) -> PastRows | None:
    """What the prepared rows are told of the rows before them; None where that is nothing."""
    wanted = needed(features)
    if not wanted:
        return None
    rows = max(backs[-1] for backs in wanted.values())
    steps = spec.problem.forecast.told if spec.problem.forecast else None
    time, by = spec.data.split.column or "", spec.features.history.by
    return PastRows(rows=rows, columns=tuple(wanted), time=time, by=by, steps=steps)


def prepared(spec: Spec, features: Features, table: pl.DataFrame, set_aside: Mapping[str, str]) -> pl.DataFrame:
    """``table``, typed, with the past values that features read, and without the columns that are set aside.

    Raises:
        DataCheckFailed: a column is lacking, or rows have no time or no group.
    """
    wanted, told = needed(features), past_rows(spec, features)
    if told is None:
        return table
    for of in wanted:
        if of not in table.columns:
            close = get_close_matches(of, table.columns, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"The data has: {', '.join(table.columns)}."
            why = f"which was set aside: {set_aside[of]}." if of in set_aside else "which is no column."
            readers = (name for name, one in sorted(features.derive.items()) if _reads(one.reads(), of))
            where = f"features.derive.{next(readers)}"
            raise DataCheckFailed(f"reads past values of {of!r}, {why}", where=where, hint=hint)
    for name in told.by:
        if name not in table.columns:
            why = f": it is set aside, {set_aside[name]}" if name in set_aside else ""
            raise DataCheckFailed(f"the data has no column {name!r}{why}.", where="features.history.by")
    for name in (told.time, *told.by):
        _refuse_missing(table[name], f"data.columns.{name}")
    names = [past(of, back) for of, backs in wanted.items() for back in backs]
    if taken := sorted({*names, KEY} & set(table.columns)):
        what = f"a column can't be called {taken[0]!r}, as what rows are told of those before them is."
        raise DataCheckFailed(what, hint="Rename it in the source.")
    return table.with_columns(values(table, wanted, told)).drop(list(set_aside), strict=False)


def beside(table: pl.DataFrame, told: PastRows | None, inputs: Iterable[str]) -> pl.DataFrame:
    """Rows of a file with the past values among ``inputs``, found in the rows of the file itself.

    Raises:
        DataCheckFailed: the file does not say which rows come before which, or rows have no time or no group.
    """
    if told is None:
        return table
    for name in (told.time, *told.by):
        if name not in table.columns:
            what = f"the rows have no column {name!r}, by which the model finds the rows before each."
            raise DataCheckFailed(what, hint=f"They have: {', '.join(table.columns)}.")
        _refuse_missing(table[name], name)
    steps = [step for name in inputs if name not in table.columns and (step := looks_back(name))]
    wanted = {of: [back for one, back in steps if one == of] for of in told.columns if of in table.columns}
    return table.with_columns(values(table, wanted, told))


def values(table: pl.DataFrame, wanted: Mapping[str, Iterable[int]], told: PastRows) -> list[pl.Series]:
    """Past values of columns by how many rows back, in the order of ``table``; missing where there is no such row.

    Earlier rows of one time stand in the order that they have in ``table``; all have a time and a group.

    Raises:
        DataCheckFailed: rows are told by steps of time, and stand beside them.
    """
    import polars as pl

    find = _rows_back(table, told) if told.steps is None else _steps_back(table, told, told.steps)
    out = []
    for of, backs in wanted.items():
        for back in backs:
            places = find(back)
            made = table[of].gather(pl.Series(places).replace(-1, None)).alias(past(of, back))
            out.append(made.fill_null(MISSING) if made.dtype == pl.String else made)
    return out


def _rows_back(table: pl.DataFrame, told: PastRows) -> Callable[[int], np.ndarray]:
    """Where, in ``table``, the row stands that is so many rows before each: int64 [n], -1 where there is none."""
    import numpy as np

    order, tied, start = _order(table, told)

    def find(back: int) -> np.ndarray:
        found = tied - back
        places = np.empty(len(order), dtype=np.int64)
        places[order] = np.where(found >= start, order[np.maximum(found, 0)], -1)
        return places

    return find


def _steps_back(table: pl.DataFrame, told: PastRows, steps: Steps) -> Callable[[int], np.ndarray]:
    """The same by steps of time.

    Raises:
        DataCheckFailed: two rows of a series stand in one step, or rows stand between the steps.
    """
    import numpy as np
    import polars as pl

    if not table.height:
        return lambda back: np.zeros(0, dtype=np.int64)
    number = numbered(table[told.time], steps)
    number -= number.min()
    series = np.zeros(table.height, dtype=np.int64)
    if told.by:
        rows = table.select(told.by).with_row_index("@")
        series = rows.select(pl.col("@").min().over(told.by))["@"].to_numpy().astype(np.int64)
    key = series * (int(number.max()) + 1) + number
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    if twice := len(ordered) - len(np.unique(ordered)):
        what = f"{twice} rows stand in the same step of {steps.length} as another of their series."
        hint = "Name what tells series apart in problem.forecast.by, take a shorter step, or sum such rows up before."
        raise DataCheckFailed(what, where=f"data.columns.{told.time}", hint=hint)

    def find(back: int) -> np.ndarray:
        place = np.minimum(np.searchsorted(ordered, key - back), len(ordered) - 1)
        there = (number >= back) & (ordered[place] == key - back)
        return np.where(there, order[place], -1)

    return find


def numbered(times: pl.Series, steps: Steps) -> np.ndarray:
    """The number of the step in which each of ``times`` stands, counted from 1970 on, int64 [n]; all are known.

    Raises:
        DataCheckFailed: they are no times, or stand between the steps.
    """
    import numpy as np
    import polars as pl

    where = f"data.columns.{times.name}"
    read = cast(times, "datetime") if times.dtype == pl.String else times
    if read.dtype not in (pl.Date, pl.Datetime):
        what = f"holds {read.dtype} values; a forecast goes by times."
        raise DataCheckFailed(what, where=where, hint=f"Declare {where}.dtype: datetime")
    read = read.cast(pl.Datetime("us", getattr(read.dtype, "time_zone", None)))
    if isinstance(steps.step, str):
        if read.dtype.time_zone:  # type: ignore[attr-defined]
            read = read.dt.convert_time_zone("UTC")
        months = read.dt.year().cast(pl.Int64) * 12 + read.dt.month().cast(pl.Int64) - 1
        return np.array(months.to_numpy() // MONTHS[steps.step], dtype=np.int64)
    passed, step = read.to_physical().to_numpy(), round(steps.step * 1e6)
    if odd := int(((passed - passed[0]) % step != 0).sum()):
        what = f"{odd} rows stand between the steps of {steps.length} that the first row begins."
        hint = "Round the times, or take a shorter problem.forecast.step."
        raise DataCheckFailed(what, where=where, hint=hint)
    return np.array(passed // step, dtype=np.int64)


def _order(table: pl.DataFrame, told: PastRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers by group and time, int64 [n]; of each of these where its time starts there, and where its group."""
    import polars as pl

    time = table[told.time]
    keys = [*(table[name] for name in told.by), cast(time, "datetime") if time.dtype == pl.String else time]
    frame = pl.DataFrame([key.alias(f"{place}") for place, key in enumerate(keys)])
    order = frame.select(pl.arg_sort_by(frame.columns, maintain_order=True)).to_series().cast(pl.Int64)
    ordered = frame[order]
    return order.to_numpy(), _starts(ordered), _starts(ordered.drop(frame.columns[-1]))


def _refuse_missing(values: pl.Series, where: str) -> None:
    """Make sure that a column by which rows are told apart or ordered is known of every row.

    Raises:
        DataCheckFailed: of some it is not.
    """
    import polars as pl

    known = values.cast(pl.String) if values.dtype in (pl.Categorical, pl.Enum) else values
    if missing := finite(blank_as_missing(known)).null_count():
        what = f"{missing} rows have no {values.name}, by which the rows before each are found."
        raise DataCheckFailed(what, hint="Fill it in, or leave these rows out.", where=where)


def _starts(keys: pl.DataFrame) -> np.ndarray:
    """Of each of some sorted rows where those that equal it start."""
    import numpy as np
    import polars as pl

    if not keys.width:
        return np.zeros(1, dtype=np.int64)
    number = keys.select(pl.struct(pl.all()).rle_id()).to_series().to_numpy().astype(np.int64)
    starts: np.ndarray = np.flatnonzero(np.diff(number, prepend=-1))
    return np.asarray(starts[number])
