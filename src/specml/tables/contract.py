"""The checks of rows and columns as they were read: what breaks the contract is counted, told, put aside."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    from specml.tables.checks import ColumnChecks, Findings, Freshness, Rows

ROW = "__row__"
"""The quarantine's column that counts the rows as they were read and joined, from 1 on."""
REASON = "__reason__"
"""Its column with the keys of the checks that a row breaks."""
DTYPE = ".checks.dtype"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Bad:
    """Rows that break a check: ``rows`` bool [n]."""

    where: str
    rows: pl.Series
    limit: Rows
    what: str
    """What they are, as ``values are missing``."""
    by: dict[str, int] = field(default_factory=dict)
    """How many break which of several rules."""


def judged(
    spec: Spec, written: pl.DataFrame, table: pl.DataFrame, findings: Findings, first: int = 1
) -> tuple[pl.DataFrame, Any]:
    """The rows of ``table`` that go on, and those put aside with their reasons; None where no check puts any aside.

    ``written``: the same rows before texts were repaired; a ``regex`` looks at them, and the quarantine keeps them.
    ``first``: which row of all the first of them is.

    Raises:
        DataCheckFailed: a check can't be asked of these columns.
    """
    import polars as pl

    view, aside = table, {}
    for bad in _every(spec, written, table):
        findings.count(
            bad.where, int(bad.rows.sum()), table.height, bad.limit, f"{{bad}} of {{of}} {bad.what}.", **bad.by
        )
        if bad.limit.level == "quarantine":
            aside[bad.where] = bad.rows
        if bad.where.endswith(DTYPE):
            view = view.with_columns(_typed(spec, table[bad.rows.name]))
    if not spec.data.quarantines:
        return view, None
    view, apart = _apart(spec, written, view, aside, findings)
    return view, apart.with_columns(pl.col(ROW) + first - 1)


def _apart(
    spec: Spec, written: pl.DataFrame, table: pl.DataFrame, aside: dict[str, pl.Series], findings: Findings
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """``table`` without the rows of ``aside``, and those as they were written."""
    import polars as pl

    out = pl.repeat(value=False, n=table.height, eager=True)
    for rows in aside.values():
        out |= rows
    limit = spec.data.checks.quarantine
    findings.count("data.checks.quarantine", int(out.sum()), table.height, limit, "{bad} rows are put aside.")
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
        by = {key: int(rows.sum()) for key, rows in wrong.items()}
        rows = next(iter(wrong.values()))
        for more in wrong.values():
            rows |= more
        yield Bad(f"{where}.invalid", rows, checks.invalid, "values are invalid ({by})", by)
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


def counted(spec: Spec, rows: int, findings: Findings) -> None:
    """How many rows there are."""
    check = spec.data.checks.row_count
    if check is None:
        return
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


class Age:
    """How old the latest row is, of those that were added."""

    def __init__(self, spec: Spec) -> None:
        self._spec, self._check = spec, spec.data.checks.freshness
        self._rows = self._later = 0
        self._latest: datetime | None = None

    def add(self, table: pl.DataFrame) -> None:
        """Look at more rows.

        Raises:
            DataCheckFailed: the column holds no times.
        """
        if self._check is None:
            return
        times = _time(self._spec, table, self._check)
        self._rows += len(times)
        self._later += int((times >= self._end).sum())
        known = [one for one in (self._latest, times.max()) if isinstance(one, datetime)]
        self._latest = max(known, default=None)

    @property
    def _end(self) -> datetime:
        assert self._check is not None
        return datetime.fromisoformat(self._check.at) + timedelta(days=1)

    def judge(self, findings: Findings) -> None:
        """Whether that is fresh."""
        check = self._check
        if check is None:
            return
        age: timedelta | None = None
        if self._later:
            reason = f"{self._later:,} of {self._rows:,} rows are later than {check.at}."
        elif self._latest is None:
            reason = "no row has a time."
        else:
            age = self._end - self._latest
            reason = f"the latest row is {age / DAY:.1f} days old at the end of {check.at}."
        fine = age is not None and age.total_seconds() <= check.max
        verdict = Verdict(
            outcome="holds" if fine else "refused",
            reason=reason,
            value=None if age is None else age / DAY,
            n=self._rows,
            threshold=f"≤ {check.max}",
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
