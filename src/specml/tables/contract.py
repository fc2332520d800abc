"""The checks of rows and columns as they were read: what breaks the contract is counted, told, put aside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from specml.casting import as_categories, read, refuse_nameless
from specml.data import MISSING, NAMES_ROWS, category
from specml.errors import DataCheckFailed
from specml.evidence import Verdict
from specml.tables import expression

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from specml.data import DType
    from specml.spec import Column, Spec
    from specml.tables.checks import ColumnChecks, Findings, Freshness, RowCount, Rows

ROW = "__row__"
"""The quarantine's column that counts the rows as they were read and joined, from 1 on."""
REASON = "__reason__"
"""Its column with the keys of the checks that a row breaks."""
DTYPE = ".checks.dtype"


@dataclass(frozen=True)
class Bad:
    """Rows that break a check: ``rows`` bool [n]."""

    where: str
    rows: pl.Series
    limit: Rows
    what: str
    """What they are, as ``values are missing``."""


def judged(spec: Spec, written: pl.DataFrame, table: pl.DataFrame, findings: Findings) -> tuple[pl.DataFrame, Any]:
    """The rows of ``table`` that go on, and those put aside with their reasons; None where no check puts any aside.

    ``written``: the same rows before texts were repaired; a ``regex`` looks at them, and the quarantine keeps them.

    Raises:
        DataCheckFailed: a check can't be asked of these columns.
    """
    checks, view, aside = spec.data.checks, table, {}
    if checks.row_count:
        _row_count(table.height, checks.row_count, findings)
    for bad in _every(spec, written, table):
        n = int(bad.rows.sum())
        findings.count(bad.where, n, table.height, bad.limit, f"{n:,} of {table.height:,} {bad.what}.")
        if bad.limit.level == "quarantine":
            aside[bad.where] = bad.rows
        if bad.where.endswith(DTYPE):
            view = view.with_columns(_typed(spec, table[bad.rows.name]))
    if checks.freshness:
        _fresh(_time(spec, table, checks.freshness), checks.freshness, findings)
    return _apart(spec, written, view, aside, findings) if spec.data.quarantines else (view, None)


def _apart(
    spec: Spec, written: pl.DataFrame, table: pl.DataFrame, aside: dict[str, pl.Series], findings: Findings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """``table`` without the rows of ``aside``, and those as they were written."""
    import polars as pl

    out = pl.repeat(value=False, n=table.height, eager=True)
    for rows in aside.values():
        out |= rows
    n = int(out.sum())
    findings.count("data.checks.quarantine", n, table.height, spec.data.checks.quarantine, f"{n:,} rows are put aside.")
    why = [pl.when(rows).then(pl.lit(where)) for where, rows in aside.items()]
    kept = [name for name in written.columns if _kept(spec.column(name))]
    for name in (ROW, REASON):
        if name in kept:
            what = f"a column can't be called {name!r}, which the quarantine needs as a name of its own."
            raise DataCheckFailed(what, hint=f"Rename it in the data, or declare data.columns.{name}.role: ignore")
    apart = written.select(
        pl.int_range(1, table.height + 1).alias(ROW),
        pl.concat_str(*why, pl.lit(None, pl.String), separator="; ", ignore_nulls=True).alias(REASON),
        *kept,
    )
    return table.filter(~out), apart.filter(out)


def _kept(column: Column) -> bool:
    """Whether the quarantine may hold it: what is for gates alone or for nobody is in no file of training rows."""
    return column.role != "ignore" and column.use != "audit_only"


def _every(spec: Spec, written: pl.DataFrame, table: pl.DataFrame) -> Iterator[Bad]:
    """Each check that looks at single rows."""
    import polars as pl

    for name, column in sorted(spec.data.columns.items()):
        if name in table.columns and column.checks:
            yield from _column(spec, column.checks, written[name], table[name])
    checks, where = spec.data.checks, "data.checks"
    if duplicates := checks.duplicates:
        columns = list(duplicates.columns or [name for name in table.columns if spec.column(name).role != "ignore"])
        refuse_unknown(columns, table, f"{where}.duplicates.columns")
        rows = table.select(~pl.struct(columns).is_first_distinct().alias("rows"))["rows"]
        yield Bad(f"{where}.duplicates", rows, duplicates, "rows stood there before")
    if conflicts := checks.conflicting_labels:
        what = "rows have the features of another row, but another label"
        yield Bad(f"{where}.conflicting_labels", _conflicting(spec, table), conflicts, what)
    for name, failed in sorted(checks.failed_rows.items()):
        key = f"{where}.failed_rows.{name}"
        names = expression.columns(failed.expression)
        refuse_unknown(names, table, f"{key}.expression")
        found = expression.holds(failed.expression, comparable(spec, table, names))
        if found is None:
            what = "is no condition over these columns: what it compares is not of one kind, or it looks at other rows."
            hint = f"They hold: {', '.join(f'{name} {table[name].dtype}' for name in names)}."
            raise DataCheckFailed(what, where=f"{key}.expression", hint=hint)
        yield Bad(key, found, failed, "rows meet the condition")


def _column(spec: Spec, checks: ColumnChecks, written: pl.Series, values: pl.Series) -> Iterator[Bad]:
    where = f"data.columns.{values.name}.checks"
    dtype = _dtype(spec.column(values.name), values)
    if checks.dtype:
        _, unreadable = read(values, dtype)
        if unreadable is not None:
            yield Bad(where + ".dtype", unreadable.alias(values.name), checks.dtype, f"values can't be read as {dtype}")
    typed = _typed(spec, values)
    known = (typed != MISSING).fill_null(value=False) if _is_text(typed) else typed.is_not_null()
    if checks.missing:
        yield Bad(f"{where}.missing", ~known, checks.missing, "values are missing")
    if checks.validity:
        rules = {key: _allowed(checks, key, written, typed, where) for key in checks.validity}
        wrong = {key: known & ~allowed.fill_null(value=False) for key, allowed in rules.items()}
        told = ", ".join(f"{int(rows.sum()):,} by {key}" for key, rows in wrong.items())
        rows = next(iter(wrong.values()))
        for more in wrong.values():
            rows |= more
        yield Bad(f"{where}.invalid", rows, checks.invalid, f"values are invalid ({told})")
    if checks.unique:
        yield Bad(f"{where}.unique", known & ~typed.is_first_distinct(), checks.unique, "values stood in a row before")


def _allowed(checks: ColumnChecks, key: str, written: pl.Series, values: pl.Series, where: str) -> pl.Series:
    """Whether each value [n] is what ``key`` says is valid."""
    import polars as pl

    if key == "regex":
        assert checks.regex is not None
        refuse_nameless(written, f"{where}.{key}")
        return written.cast(pl.String).str.contains(checks.regex)
    if key == "valid_values":
        refuse_nameless(values, f"{where}.{key}")
        return as_categories(values).is_in([category(one) for one in checks.valid_values])
    limit: Any = getattr(checks, key)
    day = isinstance(limit, str)
    if day and values.dtype not in (pl.Date, pl.Datetime):
        raise DataCheckFailed(f"is a day, but the column holds {values.dtype} values.", where=f"{where}.{key}")
    if not (day or values.dtype.is_numeric()):
        what, hint = (
            f"is a number, but the column holds {values.dtype} values.",
            "Declare its dtype, or say valid_values.",
        )
        raise DataCheckFailed(what, where=f"{where}.{key}", hint=hint)
    if day:
        limit, values = datetime.fromisoformat(limit), _naive(values).dt.truncate("1d")
    found: pl.Series = values >= limit if key == "valid_min" else values <= limit
    return found


def _dtype(column: Column, values: pl.Series) -> DType | None:
    """What the values are to be read as."""
    if column.dtype is None and column.role == "time" and _is_text(values):
        return "datetime"
    return column.dtype


def _typed(spec: Spec, values: pl.Series) -> pl.Series:
    """In the declared type, what can't be read as missing."""
    return read(values, _dtype(spec.column(values.name), values))[0]


def comparable(spec: Spec, table: pl.DataFrame, names: Iterable[str]) -> pl.DataFrame:
    """``table`` with the columns ``names`` as a condition compares them: in their types, what is missing as null."""
    return table.with_columns(_known(_typed(spec, table[name])) for name in names)


def _known(values: pl.Series) -> pl.Series:
    """Missing categories as missing."""
    return values.replace({MISSING: None}) if _is_text(values) else values


def _is_text(values: pl.Series) -> bool:
    import polars as pl

    return values.dtype == pl.String


def _naive(values: pl.Series) -> pl.Series:
    """Times in UTC, without their zone."""
    import polars as pl

    if getattr(values.dtype, "time_zone", None) is not None:
        values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return values.cast(pl.Datetime("us"))


def refuse_unknown(names: list[str], table: pl.DataFrame, where: str) -> None:
    """Columns that the spec names at ``where`` are there.

    Raises:
        DataCheckFailed: one is not.
    """
    for name in names:
        if name not in table.columns:
            what = f"names {name!r}, which is no column of the data."
            raise DataCheckFailed(what, where=where, hint=f"It has: {', '.join(table.columns)}.")


def _conflicting(spec: Spec, table: pl.DataFrame) -> pl.Series:
    """Whether a row's features stand beside another label, too; a text that names its row is no feature."""
    import polars as pl

    target = spec.problem.target
    names = [
        values.name
        for values in table.get_columns()
        if values.name != target
        and spec.column(values.name).role == "feature"
        and not (values.dtype == pl.String and values.n_unique() > NAMES_ROWS * table.height)
    ]
    if not names:
        return pl.repeat(value=False, n=table.height, eager=True)
    labels = pl.col(target).drop_nulls().n_unique().over(names)
    return table.select(((labels > 1) & pl.col(target).is_not_null()).alias("rows"))["rows"]


def _row_count(rows: int, check: RowCount, findings: Findings) -> None:
    within = check.min <= rows and (check.max is None or rows <= check.max)
    threshold = f"≥ {check.min:,} rows" + (f", ≤ {check.max:,}" if check.max is not None else "")
    outcome: Any = "holds" if within else "refused"
    verdict = Verdict(outcome=outcome, reason=f"there are {rows:,} rows.", value=rows, n=rows, threshold=threshold)
    findings.add("data.checks.row_count", verdict, check.level)


def _time(spec: Spec, table: pl.DataFrame, check: Freshness) -> pl.Series:
    import polars as pl

    name = check.column or spec.with_role("time")[0]
    where = "data.checks.freshness.column"
    refuse_unknown([name], table, where)
    values = read(table[name], "datetime")[0] if _is_text(table[name]) else table[name]
    if values.dtype not in (pl.Date, pl.Datetime):
        raise DataCheckFailed(f"names {name!r}, which holds {values.dtype} values, not times.", where=where)
    return _naive(values)


def _fresh(times: pl.Series, check: Freshness, findings: Findings) -> None:
    end = datetime.fromisoformat(check.at) + timedelta(days=1)
    later, latest = int((times >= end).sum()), times.max()
    if later:
        fine, age, reason = False, None, f"{later:,} of {len(times):,} rows are later than {check.at}."
    elif not isinstance(latest, datetime):
        fine, age, reason = False, None, "no row has a time."
    else:
        seconds = (end - latest).total_seconds()
        fine, age = seconds <= check.max, seconds / 86400
        reason = f"the latest row is {age:.1f} days old at the end of {check.at}."
    verdict = Verdict(
        outcome="holds" if fine else "refused", reason=reason, value=age, n=len(times), threshold=f"≤ {check.max}"
    )
    findings.add("data.checks.freshness", verdict, check.level)


def balanced(spec: Spec, y: pl.Series, findings: Findings) -> None:
    """The rarest class is not too rare; ``y``: class indices [n]."""
    check = spec.data.checks.class_balance
    if check is None:
        return
    rarest = int(y.alias("value").value_counts()["count"].min() or 0)  # type: ignore[arg-type]
    share = rarest / len(y)
    reason = f"the rarest class has {rarest:,} of {len(y):,} labelled rows ({share:.2%})."
    outcome: Any = "holds" if share >= check.min else "refused"
    verdict = Verdict(outcome=outcome, reason=reason, value=share, n=len(y), threshold=f"≥ {check.min:g}")
    findings.add("data.checks.class_balance", verdict, check.level)
