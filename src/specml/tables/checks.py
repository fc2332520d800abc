"""The contract of columns and table, in the words of Soda and ODCS, and what its checks conclude."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from specml.component import Block
from specml.errors import DataCheckFailed
from specml.evidence import Verdict
from specml.tables.expression import Condition
from specml.values import Day, Duration, Label, Slug

if TYPE_CHECKING:
    from collections.abc import Iterator

Level = Literal["fail", "warn"]


def _amount(value: float) -> float:
    if value >= 1 and value != int(value):
        raise PydanticCustomError("amount", "must be a share below 1, or a whole number of rows.")
    return value


Amount = Annotated[float, Field(ge=0), AfterValidator(_amount)]
"""How many rows: below 1 a share of them, from 1 on a count."""


def _pattern(text: str) -> str:
    import polars as pl

    try:
        pl.Series([""]).str.contains(text)
    except pl.exceptions.PolarsError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.startswith("error:")]
        reason = (lines or [str(error).splitlines()[0]])[0].removeprefix("error: ")
        raise PydanticCustomError("regex", "is no regular expression of Rust: {reason}", {"reason": reason}) from None
    return text


class Rows(Block):
    """How many rows may break a check, and what becomes of more."""

    max: Amount | None = None
    """Rows that may: a share below 1, or a count; none unless said. With ``level: quarantine`` how many may be put
    aside, as many as ``data.checks.quarantine`` allows unless said."""
    level: Literal["fail", "warn", "quarantine"] = "fail"
    """``fail``: more stop the run; ``warn``: they are told; ``quarantine``: each is put aside, into
    ``artifacts/prepare/quarantine.parquet`` with the reason, and the rest go on."""


class ColumnChecks(Block):
    """What the values of a column must be. A missing value is judged by ``missing`` alone."""

    missing: Rows | None = None
    """Missing values."""
    valid_values: tuple[Label, ...] = ()
    """The values that are valid."""
    valid_min: float | Day | None = None
    """The least valid number, or the first valid day."""
    valid_max: float | Day | None = None
    """The largest valid number, or the last valid day: ``2026-12-31`` finds times in the future."""
    regex: Annotated[str, AfterValidator(_pattern), Field(min_length=1, max_length=1000)] | None = None
    """What is found in each valid text, anywhere unless anchored by ``^`` and ``$``. In Rust's syntax, which has no
    look-around and takes linear time."""
    invalid: Rows = Rows()
    """Values that the four before do not allow."""
    unique: Rows | None = None
    """Values that stood in a row before."""
    dtype: Rows | None = None
    """Values that can't be read as the column's ``dtype``; one stops the run unless said. With ``warn``, and where
    ``max`` allows them, they are missing."""

    @property
    def validity(self) -> tuple[str, ...]:
        """Which of the keys that say what is valid are given."""
        given = {"valid_values": self.valid_values != (), "regex": self.regex is not None}
        given |= {"valid_min": self.valid_min is not None, "valid_max": self.valid_max is not None}
        return tuple(name for name in ("valid_values", "valid_min", "valid_max", "regex") if given[name])


class RowCount(Block):
    """How many rows there must be before any is left out."""

    min: Annotated[int, Field(ge=1)] = 1
    max: Annotated[int, Field(ge=1)] | None = None
    level: Level = "fail"


class Duplicates(Rows):
    """Rows that stood there before."""

    columns: tuple[str, ...] = ()
    """Columns in which they are the same; all unless said."""


class FailedRows(Rows):
    """Rows that a condition finds."""

    expression: Condition
    """What is wrong with them, in SQL over their columns: ``"paid > billed OR status = 'unknown'"``. Comparisons,
    ``AND OR NOT IN BETWEEN LIKE IS NULL``, arithmetic, days as ``DATE '2026-12-31'``, and the functions abs, ceil,
    coalesce, floor, length, lower, round, upper. A comparison with a missing value finds nothing."""


class Freshness(Block):
    """How old the latest row may be."""

    column: str | None = None
    """The time; the column of role ``time`` unless said."""
    at: Day
    """The day at whose end it is judged. A run looks at no clock, so that the same spec has the same outcome:
    ``specml run data.checks.freshness.at=$(date -I)``. Rows after it break the check."""
    max: Annotated[Duration, Field(gt=0)]
    """The greatest age, as ``7d``."""
    level: Level = "fail"


class ClassBalance(Block):
    """How rare the rarest class may be."""

    min: Annotated[float, Field(gt=0, le=0.5)]
    """Its least share of the rows that have a label."""
    level: Level = "fail"


class Leakage(Block):
    """Whether one column alone, or a sum of some, tells the target: it was probably written down after it."""

    max: Annotated[float, Field(gt=0.5, le=1)] = 0.999
    """What a single column may reach: for classes the area under the ROC curve (of the class that it tells worst),
    for a regression R². At 0.999 it is all but a copy."""
    level: Level = "fail"


class Overlap(Block):
    """Held-out rows that stand among the training rows, value for value: no model is tested by them."""

    max: Amount = 0.05
    """How many may, as a share of the held-out rows or a count. Columns of few values repeat by chance."""
    level: Level = "warn"


class Quarantine(Block):
    """The bound on what checks with ``level: quarantine`` put aside."""

    max: Amount = 0.05
    """Rows that may be, over all such checks; more stop the run, for then something else is wrong."""


class TableChecks(Block):
    """What the rows must be together."""

    row_count: RowCount | None = None
    duplicates: Duplicates | None = None
    freshness: Freshness | None = None
    class_balance: ClassBalance | None = None
    conflicting_labels: Rows | None = None
    """Rows of which another has the same features and another label."""
    failed_rows: dict[Slug, FailedRows] = {}
    """Conditions that must hold of no row, by a name of yours."""
    leakage: Leakage = Leakage()
    overlap: Overlap = Overlap()
    quarantine: Quarantine = Quarantine()


class Bound(Protocol):
    """How many rows may be bad; where it has a ``level``, what becomes of more."""

    @property
    def max(self) -> float | None:
        """A share below 1, or a count; None: as many as there are, or none."""


class Findings:
    """What the checks have found so far, by the key of the spec that asked."""

    def __init__(self) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.levels: dict[str, str] = {}
        self.hints: dict[str, str] = {}
        self.notes: list[str] = []
        """What breaks no check, and a person should know all the same."""
        self._counts: dict[str, Counter[str]] = {}
        self._by: dict[str, Counter[str]] = {}

    def add(self, where: str, verdict: Verdict, level: str, hint: str = "") -> None:
        """One verdict."""
        self.verdicts[where], self.levels[where], self.hints[where] = verdict, level, hint

    def count(self, where: str, bad: int, of: int, rows: Bound, what: str, **by: int) -> None:
        """A verdict about ``bad`` rows ``of`` so many, which ``rows`` bounds; what was counted before adds up.

        ``what`` says what they are, with ``{bad}``, ``{of}``, and ``{by}``: how many by what.
        """
        before = self._counts.setdefault(where, Counter())
        before.update({"bad": bad, "of": of})
        by_what = self._by.setdefault(where, Counter())
        by_what.update(by)
        bad, of = before["bad"], before["of"]
        if rows.max is None:
            allowed, threshold = (of, "none") if getattr(rows, "level", "") == "quarantine" else (0, "≤ 0 rows")
        else:
            share = rows.max < 1 and rows.max > 0
            allowed = int(rows.max * of) if share else int(rows.max)
            threshold = f"≤ {rows.max:g} of the rows" if share else f"≤ {rows.max:g} rows"
        told = ", ".join(f"{n:,} by {key}" for key, n in by_what.items())
        reason = what.format(bad=f"{bad:,}", of=f"{of:,}", by=told)
        verdict = Verdict(
            outcome="holds" if bad <= allowed else "refused", reason=reason, value=bad, n=of, threshold=threshold
        )
        self.add(where, verdict, getattr(rows, "level", "fail"))

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            where: {
                "outcome": verdict.outcome,
                "level": self.levels[where],
                "value": verdict.value,
                "n": verdict.n,
                "threshold": verdict.threshold,
                "reason": verdict.reason,
            }
            for where, verdict in sorted(self.verdicts.items())
        }

    def warnings(self) -> Iterator[str]:
        """What a person should know and stops nothing."""
        for where, verdict in self.verdicts.items():
            found = verdict.outcome == "refused" and self.levels[where] == "warn"
            if found or (self.levels[where] == "quarantine" and verdict.value):
                yield f"{where}: {verdict.reason}"
        yield from self.notes

    def refuse(self) -> None:
        """Stop at what must not be.

        Raises:
            DataCheckFailed: a check with another level than ``warn`` does not hold; all of them are told at once.
        """
        failed = [
            where
            for where, verdict in self.verdicts.items()
            if verdict.outcome == "refused" and self.levels[where] != "warn"
        ]
        if not failed:
            return
        told = {where: f"{self.verdicts[where].reason} Wanted: {self.verdicts[where].threshold}." for where in failed}
        if len(failed) == 1:
            raise DataCheckFailed(told[failed[0]], where=failed[0], hint=self.hints[failed[0]])
        lines = "\n    ".join(f"{where}: {what}" for where, what in told.items())
        raise DataCheckFailed(f"{len(failed)} checks do not hold:\n    {lines}")
