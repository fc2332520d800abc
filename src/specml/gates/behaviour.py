"""The model does on examples what a person who knows the matter expects of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, ValidationError
from typing_extensions import override

from specml.component import Block, Disagreement
from specml.data import MISSING, TEXTS, blank, category, seconds
from specml.document import read_file
from specml.errors import DataCheckFailed, SpecError
from specml.evidence import ROWS_TOLD, Answers, Evidence, Slice, Verdict, seldom, wilson
from specml.files import inside
from specml.kinds import Gate, Stricter
from specml.values import FilePath

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import polars as pl

    from specml.data import Column
    from specml.spec import Spec

ROWS = 3000
"""Held-out rows of a case, at most."""
TINY = 1e-6
"""What float32 arithmetic alone may move a score by, relative to its unit."""

Score = Literal["rises", "falls", "never_falls", "never_rises"]


class Minimum(Block):
    """What is decided of a row, or between which ends its prediction lies."""

    row: dict[str, Any]
    label: Any = None
    between: tuple[float, float] | None = None


class Invariance(Block):
    """A change after which the decision is the same, or the prediction about so."""

    row: dict[str, Any] | None = None
    rows: Literal["held_out"] | None = None
    change: Annotated[dict[str, Any], Field(min_length=1)]


class Direction(Invariance):
    """A change with which the score goes one way."""

    score: Score
    of: Any = None


class Case(Block):
    """One of the three, with a name of its own where it has one."""

    name: str = ""
    minimum: Minimum | None = None
    invariance: Invariance | None = None
    direction: Direction | None = None


class Cases(Block):
    """A file of cases."""

    cases: Annotated[tuple[Case, ...], Field(min_length=1)]


class Behaviour(Gate):
    """Examples from a file: what is decided, what must not matter, and what must move the score which way.

    ```yaml
    cases:
      - minimum: {row: {age: 30, debt: 0}, label: yes}
      - invariance: {row: {age: 30, debt: 0, sex: f}, change: {sex: m}}
      - direction: {row: {age: 30, debt: 1}, change: {debt: 9}, score: falls}
      - name: sex does not matter
        invariance: {rows: held_out, change: {sex: {f: m, m: f}}}
      - direction: {rows: held_out, change: {debt: {add: 5}}, score: never_rises}
    ```

    The minimum functionality, invariance and directional expectation tests of Ribeiro et al. 2020, *Beyond Accuracy:
    Behavioral Testing of NLP Models with CheckList*. Columns that a ``row`` leaves out are missing. A ``change`` sets a
    value; adds to or multiplies a number (``{add: 5}``, ``{times: 1.1}``); or puts values for others, in the rows that
    have one of them (``{f: m, m: f}``). A ``score`` is that of the positive class, of the class that ``of`` names, or
    the prediction: it ``rises`` or ``falls``, or ``never_falls`` or ``never_rises``. A regression's ``minimum`` says
    ``between: [low, high]`` for ``label``.

    Every example must hold. Of a case over held-out rows the share that fails is judged, on the upper end of its Wilson
    interval. A file that can't be read as this, or that names what the model does not take, is not measured, and told
    with line and column.
    """

    stricter: ClassVar[Mapping[str, Stricter]] = {"tolerance": "smaller"}

    type: Literal["behaviour"] = "behaviour"
    cases: FilePath
    """The file, as ``cases.yaml``, in the project's folder; DVC judges anew when it changes."""
    max: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The upper confidence bound of the share of held-out rows that fail must stay within it, in each case."""
    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Regression: by how much a prediction may move and still count as the same, as a share of the predictions'
    spread."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the two-sided interval."""

    @override
    def files(self) -> tuple[str, ...]:
        return (self.cases,)

    @override
    def disagreements(self, spec: Spec) -> Iterable[Disagreement]:
        path = PurePosixPath(self.cases)
        if path.is_absolute() or ".." in path.parts:
            hint = "Name a file in it, as cases.yaml."
            yield Disagreement(key=("cases",), what="lies outside of the project's folder.", hint=hint)
        if spec.problem.learns != "regression" and self.tolerance != type(self).model_fields["tolerance"].default:
            what = f"has no effect on a {spec.problem.task} problem: its decisions are the same or are not."
            yield Disagreement(key=("tolerance",), what=what)

    @override
    def check(self, evidence: Evidence) -> Verdict:
        threshold = f"≤ {self.max:g}"
        if evidence.model is None or evidence.rows is None or evidence.folder is None or not len(evidence.y):
            reason = "there is no model to ask, or there are no held-out rows."
            return Verdict(outcome="not measured", reason=reason, threshold=threshold)
        try:
            asked = _asked(read(evidence.folder, self.cases), evidence)
        except _Wrong as wrong:
            slices = tuple(Slice(name=where, n=0, outcome="not measured", note=what) for where, what in wrong.problems)
            left = len(slices) - 1
            more = f"; {left} more {'is' if left == 1 else 'are'} wrong" if left else ""
            reason = f"{slices[0].name}: {slices[0].note.removesuffix('.')}{more}."
            return Verdict(outcome="not measured", reason=reason, threshold=threshold, slices=slices)
        results = [self._judged(one, evidence) for one in asked]
        results.sort(key=lambda one: (_ORDER[one.slice.outcome], -(one.slice.value or 0)))
        worst = results[0].slice
        failing = sum(one.slice.outcome != "holds" for one in results)
        told = f"{failing} of {len(results)} cases fail"
        if failing:
            told = f"{told}; the first is {worst.name}: {worst.note.removesuffix('.')}"
        return Verdict(
            outcome=worst.outcome,
            reason=f"{told}.",
            value=worst.value,
            interval=worst.interval,
            n=sum(one.slice.n for one in results),
            threshold=threshold,
            slices=tuple(one.slice for one in results),
            rows=results[0].rows,
        )

    def _judged(self, one: _Asked, evidence: Evidence) -> _Result:
        fails, what = one.fails(evidence, self.tolerance)
        n, failing = len(fails), int(fails.sum())
        if one.numbers is None:
            outcome: Any = "refused" if failing else "holds"
            note = what if failing else ""
            return _Result(Slice(name=one.name, n=1, value=float(failing), outcome=outcome, note=note), ())
        name = f"the share of {n:,} held-out rows in which {what.removesuffix('.')}"
        told = seldom(name, failing, n, lambda k: wilson(k, n, self.confidence), self.max)
        found = Slice(
            name=one.name, n=n, value=told.value, interval=told.interval, outcome=told.outcome, note=told.reason
        )
        return _Result(found, tuple(one.numbers[fails].tolist()[:ROWS_TOLD]))


_ORDER = {"refused": 0, "not measured": 1, "holds": 2}


class _Result(NamedTuple):
    slice: Slice
    rows: tuple[int, ...]


class _Wrong(Exception):
    """Problems in a file of cases, each with its place."""

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self.problems = tuple(problems)


class _Located(NamedTuple):
    """A case and where it stands."""

    case: Case
    at: Any
    """The place of a key inside."""


def read(folder: Path, name: str) -> list[_Located]:
    """The cases in the file ``name``.

    Raises:
        _Wrong: it is no file of cases.
    """
    try:
        document = read_file(inside(folder, name), name)
    except SpecError as error:
        raise _Wrong((one.where, one.what) for one in error.problems) from None
    except DataCheckFailed as error:
        raise _Wrong([(name, error.what)]) from None

    def at(*keys: Any) -> str:
        while keys not in document.places:
            keys = keys[:-1]
        return document.places[keys]

    try:
        cases = Cases.model_validate(document.tree).cases
    except ValidationError as error:
        told = {
            at(*one["loc"]): _in_words(one)
            for one in error.errors()
            if one["type"] != "too_short" or len(error.errors()) == 1
        }
        raise _Wrong(told.items()) from None
    return [_Located(case, lambda *keys, index=index: at("cases", index, *keys)) for index, case in enumerate(cases)]


def _in_words(error: Any) -> str:
    words = {"extra_forbidden": f"{error['loc'][-1]!r} is no key known here.", "missing": f"lacks {error['loc'][-1]}."}
    return words.get(error["type"], f"{error['msg'][0].lower()}{error['msg'][1:]}.")


def _asked(cases: list[_Located], evidence: Evidence) -> list[_Asked]:
    """The cases as rows to ask.

    Raises:
        _Wrong: with every problem found.
    """
    found: dict[str, _Asked] = {}
    problems: list[tuple[str, str]] = []
    for located in cases:
        try:
            one = _Asked.of(located, evidence)
        except _Wrong as wrong:
            problems += wrong.problems
            continue
        if one.name in found:
            problems.append((located.at("name"), "another case has this name."))
        found[one.name] = one
    if problems:
        raise _Wrong(problems)
    return list(found.values())


class _Asked(NamedTuple):
    """A case as rows to ask: ``after`` only where there is a change, ``numbers`` only of held-out rows."""

    name: str
    case: Case
    before: pl.DataFrame
    after: pl.DataFrame | None
    numbers: np.ndarray | None
    wanted: Any
    """The class's index that is expected or whose score is judged."""

    @classmethod
    def of(cls, located: _Located, evidence: Evidence) -> _Asked:
        case, at = located
        kinds = [kind for kind in ("minimum", "invariance", "direction") if getattr(case, kind) is not None]
        if len(kinds) != 1:
            raise _Wrong([(at(), "a case is one of minimum, invariance and direction.")])
        (kind,) = kinds
        name = case.name or f"{kind} at {at(kind)}"
        assert evidence.model is not None
        assert evidence.rows is not None
        columns = {one.name: one for one in evidence.model.inputs}
        reading = _Reading(columns, evidence.rows, lambda *keys: at(kind, *keys))
        if case.minimum is not None:
            wanted = _expected(case.minimum, evidence, reading)
            return cls(name, case, reading.row(case.minimum.row), None, None, wanted)
        change = case.direction or case.invariance
        assert change is not None
        if (change.row is None) == (change.rows is None):
            raise _Wrong([(at(kind), "needs either row, an example, or rows: held_out.")])
        wanted = _class(case.direction, evidence, reading) if case.direction else None
        numbers = None
        if change.row is not None:
            before = reading.row(change.row)
        else:
            numbers = evidence.evenly(ROWS)
            before = evidence.rows[numbers]
        after, has = reading.changed(before, change.change)
        if numbers is None and not has.all():
            raise _Wrong([(at(kind, "change"), "changes nothing in this row.")])
        return cls(name, case, before.filter(has), after.filter(has), None if numbers is None else numbers[has], wanted)

    def fails(self, evidence: Evidence, tolerance: float) -> tuple[np.ndarray, str]:
        """Which rows fail, bool [n], and what they then do."""
        import numpy as np

        model = evidence.model
        assert model is not None
        if not self.before.height:
            return np.zeros(0, dtype=bool), "it changes."
        before = model.answer(self.before)
        unit = float(np.std(evidence.predicted)) or 1.0 if evidence.task == "regression" else 1.0
        if self.case.minimum is not None:
            if self.case.minimum.between is not None:
                low, high = self.case.minimum.between
                found = _of(before, evidence, None)
                return ~((low <= found) & (found <= high)), "the prediction lies beyond its ends."
            assert before.decisions is not None
            return (before.decisions != self.wanted) | lost(before), "another label is decided."
        assert self.after is not None
        after = model.answer(self.after)
        if self.case.invariance is not None:
            if before.decisions is not None and after.decisions is not None:
                moved = (before.decisions != after.decisions) | lost(before) | lost(after)
                return moved, "another label is decided after the change."
            moved = np.abs(_of(after, evidence, None) - _of(before, evidence, None))
            return ~(moved <= tolerance * unit), f"the prediction moves by more than {tolerance:g} of the spread."
        assert self.case.direction is not None
        moved = _of(after, evidence, self.wanted) - _of(before, evidence, self.wanted)
        holds, what = {
            "rises": (moved > 0, "the score does not rise."),
            "falls": (moved < 0, "the score does not fall."),
            "never_falls": (moved >= -TINY * unit, "the score falls."),
            "never_rises": (moved <= TINY * unit, "the score rises."),
        }[self.case.direction.score]
        return ~holds, what


def lost(answers: Answers) -> np.ndarray:
    """The rows without a finite answer, bool [n]."""
    import numpy as np

    return np.asarray(~np.isfinite(answers.scores.reshape(len(answers.scores), -1)).all(axis=1))


def _of(answers: Answers, evidence: Evidence, wanted: int | None) -> np.ndarray:
    """The score that is judged: of a class, of the positive one, or the prediction."""
    import numpy as np

    if evidence.quantiles:
        return np.asarray(answers.scores[:, evidence.quantiles.index(0.5)])
    return answers.scores if answers.scores.ndim == 1 else np.asarray(answers.scores[:, wanted])


def _expected(minimum: Minimum, evidence: Evidence, reading: _Reading) -> int | None:
    if evidence.task == "regression":
        if minimum.between is None or minimum.label is not None:
            raise reading.wrong("of a regression says between: [low, high], and no label.")
        if not minimum.between[0] <= minimum.between[1]:
            raise reading.wrong("rises from its first to its second end.", "between")
        return None
    if minimum.label is None or minimum.between is not None:
        raise reading.wrong("says the label that is decided, and no ends.")
    return _index(minimum.label, evidence, reading, "label")


def _class(direction: Direction, evidence: Evidence, reading: _Reading) -> int | None:
    if evidence.task == "multiclass":
        if direction.of is None:
            raise reading.wrong("needs the class whose score it is, as of: LABEL.")
        return _index(direction.of, evidence, reading, "of")
    if direction.of is not None:
        raise reading.wrong("is for problems with several classes.", "of")
    return None


def _index(label: Any, evidence: Evidence, reading: _Reading, key: str) -> int:
    names = [category(one) for one in evidence.classes]
    if not isinstance(label, (str, bool, int, float)) or category(label) not in names:
        raise reading.wrong(f"is no class of this model: {', '.join(names)}.", key)
    return names.index(category(label))


class _Reading(NamedTuple):
    """How values of a case become those of the model's columns."""

    columns: dict[str, Column]
    like: pl.DataFrame
    at: Any

    def wrong(self, what: str, *keys: Any) -> _Wrong:
        return _Wrong([(self.at(*keys), what)])

    def column(self, name: str, *keys: Any) -> Column:
        if name not in self.columns:
            raise self.wrong(f"{name} is no column that the model takes; a change of it would change nothing.", *keys)
        return self.columns[name]

    def row(self, row: dict[str, Any]) -> pl.DataFrame:
        """One row with these values, and all others missing."""
        import polars as pl

        for name in row:
            self.column(name, "row", name)
        found = []
        for name, column in self.columns.items():
            if name not in row and not column.nullable:
                raise self.wrong(f"lacks {name}, which always needs a value.", "row")
            keys = ("row", name) if name in row else ("row",)
            found.append(self.values(column, [row.get(name)], *keys))
        return pl.DataFrame(found)

    def values(self, column: Column, values: list[Any], *keys: Any) -> pl.Series:
        """Values of one column, as the held-out table has them."""
        import polars as pl

        read: list[Any] = [self.value(column, one, *keys) for one in values]
        dtype = self.like[column.name].dtype
        if column.kind == "datetime":
            zone = getattr(dtype, "time_zone", None)
            moments = pl.Series(column.name, read, dtype=pl.Int64).cast(pl.Datetime("us"))
            return moments.dt.replace_time_zone("UTC").dt.convert_time_zone(zone) if zone else moments
        kept = pl.Float64 if column.kind == "numeric" else dtype
        return pl.Series(column.name, read, dtype=kept)

    def value(self, column: Column, value: Any, *keys: Any) -> Any:
        """A value as polars takes it, None where it is missing."""
        missing = value is None or (isinstance(value, str) and column.kind in TEXTS and blank(value))
        if missing:
            if not column.nullable:
                raise self.wrong("is missing; this column always needs a value.", *keys)
            return None
        if column.kind == "numeric" and _number(value):
            return float(value)
        if column.kind == "boolean" and isinstance(value, bool):
            return value
        if column.kind == "categorical" and isinstance(value, (str, bool, int, float)):
            return category(value)
        if column.kind == "text" and isinstance(value, str):
            return value
        if column.kind == "datetime" and isinstance(value, str):
            try:
                return round(seconds(value) * 1e6)
            except ValueError as error:
                raise self.wrong(f"{error}.", *keys) from None
        raise self.wrong(f"{column.name} takes {_WANTED[column.kind]}.", *keys)

    def changed(self, table: pl.DataFrame, change: dict[str, Any]) -> tuple[pl.DataFrame, pl.Series]:
        """The table after the change, and in which rows there was something to change."""
        import polars as pl

        has = pl.Series([True] * table.height, dtype=pl.Boolean)
        for name, wanted in change.items():
            column = self.column(name, "change", name)
            keys = ("change", name)
            if not isinstance(wanted, dict):
                values = self.values(column, [wanted], *keys).rename(name)
                table = table.with_columns(values.new_from_index(0, table.height))
            elif column.kind == "numeric":
                values = self._moved(table[name].cast(pl.Float64), wanted, *keys)
                table, has = table.with_columns(values), has & values.is_not_null()
            else:
                values, found = self._swapped(column, table[name], wanted, *keys)
                table, has = table.with_columns(values), has & found
        return table, has

    def _moved(self, values: pl.Series, wanted: dict[str, Any], *keys: Any) -> pl.Series:
        (how, by), *more = wanted.items() or [("", None)]
        if more or how not in ("add", "times") or not _number(by):
            raise self.wrong("of a number says a value, {add: …} or {times: …}.", *keys)
        moved: pl.Series = values + by if how == "add" else values * by
        return moved

    def _swapped(
        self, column: Column, values: pl.Series, wanted: dict[str, Any], *keys: Any
    ) -> tuple[pl.Series, pl.Series]:
        import polars as pl

        if column.kind == "datetime":
            raise self.wrong("of a time says the one to set.", *keys)
        names = values.cast(pl.String).fill_null(MISSING)
        new = self.values(column, list(wanted.values()), *keys)
        found = names.is_in(list(wanted))
        place = {old: index for index, old in enumerate(wanted)}
        places = names.replace_strict(place, default=None, return_dtype=pl.UInt32)
        swapped: pl.Series = new.gather(places)
        return swapped.rename(column.name), found


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_WANTED = {
    "numeric": "a finite number",
    "boolean": "true or false",
    "categorical": "a category",
    "text": "a text",
    "datetime": "a time as in ISO 8601",
}
