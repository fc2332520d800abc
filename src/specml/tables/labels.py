"""Labels that come late or are written by rules: what can't be known yet is unlabelled, never negative."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from specml.casting import cast
from specml.component import Block, Disagreement
from specml.errors import DataCheckFailed
from specml.tables import contract, expression
from specml.tables.checks import Amount
from specml.tables.expression import Condition
from specml.values import Day, Duration, Label, Slug

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl

    from specml.spec import Spec
    from specml.tables.checks import Findings

WHERE = "data.labels"


class LabelRule(Block):
    """A label for the rows that meet a condition."""

    expression: Condition
    """Which rows, in SQL over their columns, as ``data.checks.failed_rows`` has it."""
    label: Label
    """What they are."""
    priority: int = 0
    """Of rules that differ about a row the one with the highest is heeded."""


class Conflicts(Block):
    """Rows about which rules of the same priority differ; they stay without a label."""

    max: Amount = 0
    """How many may be: a share below 1, or a count."""
    level: Literal["fail", "warn"] = "fail"


class Unlabelled(Block):
    """Rows without a label, which train nothing."""

    max: Amount = 0.1
    """How many may be: a share below 1, or a count."""
    level: Literal["fail", "warn"] = "warn"


class Labels(Block):
    """When a label can be known, and what gives one to rows that have none."""

    time: str | None = None
    """The column with the time of the row, from which ``delay`` runs."""
    delay: Annotated[Duration, Field(gt=0)] | None = None
    """How long it takes until the label of a row is known, as ``30d``. A younger row has no label, whatever stands in
    it: of those the quick ones are already known, which are not like the others."""
    at: Day | None = None
    """The day at whose end the labels were gathered. A run looks at no clock, so that the same spec has the same
    outcome: ``specml run data.labels.at=$(date -I)``."""
    known_at: str | None = None
    """The column with the time when the label became known; one that came after ``delay`` does not count."""
    absent: Label | None = None
    """The label of a row that is old enough and has none, where only one outcome is recorded, as frauds are; unless
    said it stays without one."""
    rules: dict[Slug, LabelRule] = {}
    """What labels the rows that have no label, by a name of yours. The columns that they read are no features."""
    conflicts: Conflicts = Conflicts()
    unlabelled: Unlabelled = Unlabelled()

    @property
    def read(self) -> frozenset[str]:
        """The columns that the rules read."""
        return frozenset(name for rule in self.rules.values() for name in expression.columns(rule.expression))


def disagreements(spec: Spec) -> Iterator[Disagreement]:
    """What contradicts in ``data.labels``, or has no effect; keys are paths from the root."""
    labels, path = spec.data.labels, ("data", "labels")
    timed = {key: getattr(labels, key) is not None for key in ("time", "delay", "at")}
    if any(timed.values()) and not all(timed.values()):
        lacking = ", ".join(key for key, given in timed.items() if not given)
        what = f"says {', '.join(key for key, given in timed.items() if given)}, but not {lacking}."
        yield Disagreement(key=path, what=what, hint="time, delay and at belong together.")
    for key in ("time", "known_at"):
        name = getattr(labels, key)
        if name is not None and (role := spec.column(name).role) != "time":
            what, hint = f"names {name!r}, whose role is {role}.", f"Declare data.columns.{name}.role: time"
            yield Disagreement(key=(*path, key), what=what, hint=hint)
    if labels.known_at is not None and labels.delay is None:
        yield Disagreement(key=(*path, "known_at"), what="has no effect without delay.")
    if labels.absent is not None and labels.delay is None and not labels.rules:
        what = f"is {labels.absent!r}, but nothing says when a label would be known."
        yield Disagreement(key=(*path, "absent"), what=what, hint="Say time, delay and at.")
    if not labels.rules and labels.conflicts != Conflicts():
        yield Disagreement(key=(*path, "conflicts"), what="has no effect: there are no rules.")
    if labels.rules and spec.problem.learns == "regression":
        yield Disagreement(key=(*path, "rules"), what="give classes, which a regression has not.")
    if spec.problem.target in labels.read:
        what = f"read the target, {spec.problem.target!r}, which they are to give."
        yield Disagreement(key=(*path, "rules"), what=what)


def labelled(spec: Spec, table: pl.DataFrame, findings: Findings) -> tuple[pl.Series | None, dict[str, Any]]:
    """The target with what rules give and without what can't be known yet, and what was found.

    None where ``data.labels`` says nothing that changes it, or there is no target and nothing makes one.

    Raises:
        DataCheckFailed: a column is missing, or a condition is none of these columns.
    """
    labels, target = spec.data.labels, spec.problem.target
    if not labels.rules and labels.delay is None:
        return None, {}
    if target not in table.columns and not labels.rules:
        return None, {}
    given = _given(labels, table[target]) if target in table.columns else None
    told: dict[str, Any] = {}
    if labels.known_at is not None and given is not None:
        given = _in_time(labels, table, given, told)
    made = _ruled(spec, table, given, findings, told) if labels.rules else given
    assert made is not None
    if labels.delay is not None:
        due = _due(labels, table)
        told["not_due"] = int((~due).sum())
        made = _where(due, made)
        told["absent"] = int((due & made.is_null()).sum())
    else:
        due = made.is_null() | made.is_not_null()
        told["absent"] = made.null_count()
    if labels.absent is not None:
        filled = _as(made, labels.absent, f"{WHERE}.absent")
        made = made.zip_with(~(due & made.is_null()), filled)
    return made.alias(target), told


def bounded(spec: Spec, unlabelled: int, n: int, findings: Findings) -> None:
    """Judge how many rows have no label.

    Raises:
        DataCheckFailed: too many, and ``data.labels.unlabelled`` says ``level: fail``.
    """
    if not unlabelled:
        return
    bound = spec.data.labels.unlabelled
    findings.count(f"{WHERE}.unlabelled", unlabelled, n, bound, "{bad} of {of} rows have no label.")
    findings.refuse()


def together(before: dict[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What was found in some rows and in others: counts add up."""
    return before | {
        key: together(before.get(key, {}), one) if isinstance(one, dict) else before.get(key, 0) + one
        for key, one in told.items()
    }


def notes(labels: Labels, told: Mapping[str, Any]) -> Iterator[str]:
    """What was found, in sentences."""
    for name, one in told.get("rules", {}).items():
        known = f"; of {one['known']:,} with a known label it agrees with {one['agrees']:,}" if one["known"] else ""
        yield f"{WHERE}.rules.{name}: {one['rows']:,} rows{known}"
    if told.get("conflicts"):
        settled = told["conflicts"] - told["unsettled"]
        yield f"{WHERE}.rules: they differ about {told['conflicts']:,} rows, of which priority settles {settled:,}"
    if told.get("late"):
        yield f"{WHERE}.known_at: {told['late']:,} labels came after {labels.delay}, or at no known time"
    if told.get("not_due"):
        yield f"{WHERE}.delay: {told['not_due']:,} rows are younger than {labels.delay}: their label can't be known yet"
    if told.get("absent") and labels.absent is not None:
        yield f"{WHERE}.absent: {told['absent']:,} rows without a label are taken as {labels.absent!r}"


def _given(labels: Labels, values: pl.Series) -> pl.Series:
    """The target as it is; where no row has a value, which is of no type, in the type of what will be written in it."""
    import polars as pl

    written = [*(rule.label for rule in labels.rules.values()), *([] if labels.absent is None else [labels.absent])]
    return values.cast(pl.Series(written, strict=False).dtype) if values.dtype == pl.Null and written else values


def _in_time(labels: Labels, table: pl.DataFrame, given: pl.Series, told: dict[str, Any]) -> pl.Series:
    """Labels that were known in time."""
    assert labels.known_at is not None
    assert labels.delay is not None
    known = _times(table, labels.known_at, "known_at")
    until = _times(table, labels.time or "", "time") + timedelta(seconds=labels.delay)
    in_time = (known <= until).fill_null(value=False)
    told["late"] = int((given.is_not_null() & ~in_time).sum())
    return _where(in_time, given)


def _due(labels: Labels, table: pl.DataFrame) -> pl.Series:
    """Whether the label of a row can be known; of one without a time it can't."""
    assert labels.at is not None
    assert labels.delay is not None
    end = datetime.fromisoformat(labels.at) + timedelta(days=1)
    return (_times(table, labels.time or "", "time") <= end - timedelta(seconds=labels.delay)).fill_null(value=False)


def _times(table: pl.DataFrame, name: str, key: str) -> pl.Series:
    """A column as times in UTC, without their zone."""
    import polars as pl

    contract.refuse_unknown([name], table, f"{WHERE}.{key}")
    values = cast(table[name], "datetime") if table[name].dtype == pl.String else table[name]
    if not isinstance(values.dtype, pl.Datetime) and values.dtype != pl.Date:
        hint = f"Declare data.columns.{name}.dtype: datetime"
        raise DataCheckFailed(f"{name!r} holds {values.dtype} values, not times.", where=f"{WHERE}.{key}", hint=hint)
    if getattr(values.dtype, "time_zone", None) is not None:
        values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return values.cast(pl.Datetime("us"))


def _ruled(
    spec: Spec, table: pl.DataFrame, given: pl.Series | None, findings: Findings, told: dict[str, Any]
) -> pl.Series:
    """Labels by rule where there is none, of the highest priority; none where two of the same differ."""
    import numpy as np
    import polars as pl

    rules, n = sorted(spec.data.labels.rules.items()), table.height
    fires = np.column_stack([_fires(spec, name, rule.expression, table) for name, rule in rules])
    kinds = list(dict.fromkeys(rule.label for _, rule in rules))
    says = np.array([kinds.index(rule.label) for _, rule in rules])
    priority = np.array([rule.priority for _, rule in rules])
    top = np.where(fires, priority, priority.min() - 1).max(axis=1)
    heeded = fires & (priority == top[:, None])

    def differ(chosen: np.ndarray) -> np.ndarray:
        least, most = np.where(chosen, says, len(kinds)).min(axis=1), np.where(chosen, says, -1).max(axis=1)
        return np.asarray((most >= 0) & (least != most))

    unsettled = differ(heeded)
    place = np.where(unsettled, -1, np.where(heeded, says, -1).max(axis=1))
    labels = pl.Series(kinds, dtype=None if given is None else given.dtype, strict=False)
    if not _kept(kinds, labels):
        what = f"give labels that {spec.problem.target!r}, of {labels.dtype} values, can't hold."
        raise DataCheckFailed(what, where=f"{WHERE}.rules", hint="Write them as they stand in the data.")
    made = labels.gather(pl.Series(place).cast(pl.Int64).replace(-1, None))
    told["rules"] = {
        name: {"rows": int(fires[:, i].sum()), **_agreement(given, labels[int(says[i])], fires[:, i])}
        for i, (name, _) in enumerate(rules)
    }
    told |= {"conflicts": int(differ(fires).sum()), "unsettled": int(unsettled.sum())}
    what = "rules of the same priority differ about {bad} of {of} rows."
    findings.count(f"{WHERE}.conflicts", told["unsettled"], n, spec.data.labels.conflicts, what)
    return made if given is None else given.zip_with(given.is_not_null(), made)


def _agreement(given: pl.Series | None, label: Any, fires: Any) -> dict[str, int]:
    """Of the rows that a rule finds: how many had a label, and how many that of the rule."""
    if given is None:
        return {"known": 0, "agrees": 0}
    found = given.filter(fires).drop_nulls()
    return {"known": len(found), "agrees": int((found == label).sum())}


def _fires(spec: Spec, name: str, text: str, table: pl.DataFrame) -> Any:
    where = f"{WHERE}.rules.{name}.expression"
    names = expression.columns(text)
    contract.refuse_unknown(names, table, where)
    found = expression.holds(text, contract.comparable(spec, table, names))
    if found is None:
        what = "is no condition over these columns: what it compares is not of one kind, or it looks at other rows."
        hint = f"They hold: {', '.join(f'{one} {table[one].dtype}' for one in names)}."
        raise DataCheckFailed(what, where=where, hint=hint)
    return found.to_numpy()


def _where(kept: pl.Series, values: pl.Series) -> pl.Series:
    """``values`` where ``kept``, else missing."""
    return values.set(~kept, None)


def _kept(labels: list[Label], written: pl.Series) -> bool:
    """Whether a type holds the labels as they are: none is missing in it, and no number another."""
    pairs = zip(labels, written.to_list(), strict=True)
    return all(
        has is not None and (isinstance(said, str) or isinstance(has, str) or said == has) for said, has in pairs
    )


def _as(values: pl.Series, label: Label, where: str) -> pl.Series:
    """``label`` for each of ``values``, in their type."""
    import polars as pl

    one = pl.Series([label], dtype=values.dtype, strict=False)
    if not _kept([label], one):
        raise DataCheckFailed(f"is {label!r}, but {values.name!r} holds {values.dtype} values.", where=where)
    return one.new_from_index(0, len(values))
