"""Tables, column roles and the model's view of them.

A table is a polars frame; a *design* is what a candidate sees of it.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from specml.values import Duration

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

Task = Literal["binary", "multiclass", "regression", "forecast"]
"""What a spec asks for. A forecast is a regression to all that trains, packages and serves it: there ``forecast`` is no
task, and ``PastRows.steps`` tells one from the other."""
Role = Literal["feature", "target", "id", "protected", "weight", "time", "ignore"]
DType = Literal["float", "int", "bool", "category", "datetime", "text"]

Kind = Literal["numeric", "boolean", "categorical", "datetime", "text"]
TEXTS: tuple[Kind, ...] = ("categorical", "text")
"""The kinds of column that are strings to the graph."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ].*)?")

FIRST, LAST = -62135596800.0, 253402300799.0
"""Seconds since 1970 of the years 1 to 9999; what is beyond counts as their ends."""

FoldMethod = Literal["random", "stratified", "group", "time", "hash"]

LARGEST = 3.4e38
"""The largest number, either way, that float32 holds, about: what is beyond is this to a model."""

NAMES_ROWS = 0.95
"""Share of distinct values beyond which a text column names its rows rather than describing them."""

MISSING = "__missing__"
"""What a missing category is called, everywhere: in the stored tables, the graph and a request."""


TEXT_READ = 10_000
"""Characters of a text that are read; a longer one is cut, in training and in a request alike."""


MOST_BACK = 366
"""How many rows back a model may look: a year of days, two weeks of hours."""
_PAST = re.compile(r"(.+)@-([1-9][0-9]{0,5})", re.DOTALL)


def past(of: str, back: int) -> str:
    """What the value of the column ``of`` is called that it had ``back`` rows earlier."""
    return f"{of}@-{back}"


def looks_back(name: str) -> tuple[str, int] | None:
    """The column whose past value is called ``name``, and how many rows back; None where it is no past value."""
    found = _PAST.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def blank(text: str) -> bool:
    """Whether a text is a missing value: empty, white space or ``MISSING``; as ``casting.blank_as_missing`` has it."""
    return text.strip() in ("", MISSING)


def category(value: str | float | bool) -> str:
    """What a category is called, in the tables and in a request alike.

    ``1`` and ``1.0`` are ``"1"``, ``2.5`` is ``"2.5"``, ``True`` is ``"true"``; NaN is missing.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return MISSING
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def seconds(time: str) -> float:
    """Seconds since 1970 (UTC) of a date or time as in ISO 8601; without a zone it is of UTC.

    Raises:
        ValueError: it is none.
    """
    with contextlib.suppress(ValueError):
        if _ISO.fullmatch(time):
            moment = datetime.fromisoformat(time)
            since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH
            return float((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) / 1e6
    raise ValueError("is no time as in ISO 8601, such as 2026-11-23 or 2026-11-23T14:30:00Z")


def iso(time: float) -> str:
    """The same time as text; one beyond the years 1 to 9999 as their end."""
    return (EPOCH + timedelta(seconds=min(max(time, FIRST), LAST))).isoformat(timespec="seconds").replace("+00:00", "Z")


CATEGORIES_KEPT = 1000
"""Categories that the contract lists for a column; beyond, the list stops being of use to a reader."""


class Column(BaseModel):
    """One feature as the model knows it: the same facts in the tables, the contract and the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Kind
    """Times (``datetime``) are numbers to the graph: seconds since 1970 (UTC), from ISO 8601 in the tables and in a
    request. Of a ``text`` at most ``TEXT_READ`` characters are read, and a missing one is empty."""
    integral: bool = False
    """Whole numbers only in the data that the model was trained on."""
    nullable: bool = False
    """Whether a value may be missing."""
    minimum: float | None = None
    """Smallest value in the training rows, of times in seconds; None for categories, texts and empty columns."""
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    """Categories in the training rows, sorted, without the missing one; at most ``CATEGORIES_KEPT``, the commonest."""

    @property
    def tensor(self) -> Literal["float64", "string"]:
        """What it is in the graph, [rows, 1]."""
        return "string" if self.kind in TEXTS else "float64"


class Folding(BaseModel):
    """How cross-validation divides the training rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: FoldMethod = "stratified"
    """``stratified``: by chance, and by class where there are classes."""
    column: str | None = None
    """The column of the training table by which it does: ``time``, which counts the times from the earliest on,
    ``group`` or ``hash``; None where chance decides."""
    embargo: int = 0
    """``time``: microseconds, as then are the values of ``column``, between what trains and what judges."""


Calendar = Literal["month", "quarter", "year"]
MONTHS: dict[Calendar, int] = {"month": 1, "quarter": 3, "year": 12}


class Steps(BaseModel):
    """Of a forecast: how far apart the rows of a series are, and how far ahead they are told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: float | Calendar
    """Seconds, or a part of the calendar (UTC)."""
    horizon: int
    """Steps ahead; nothing that is looked back at is younger."""
    season: int
    """How many steps back the seasonal naive forecast looks."""

    @property
    def length(self) -> str:
        """How long a step is, for people."""
        return self.step if isinstance(self.step, str) else str(Duration(self.step))


class PastRows(BaseModel):
    """Which of the rows before it a row is told of: those of its group that are strictly earlier, the latest ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    """How many at most; what fewer rows lack is missing."""
    columns: tuple[str, ...]
    """Which of their columns; the value of ``x`` that is ``k`` rows back is the input ``past("x", k)``."""
    time: str
    """The column that orders rows."""
    by: tuple[str, ...] = ()
    """The columns whose values tell groups apart; none where all rows are one."""
    steps: Steps | None = None
    """Given: ``k`` rows back means ``k`` steps of time, and what is missing where no row stands there; ``rows`` is how
    many steps are looked back at."""

    @model_serializer(mode="wrap")
    def _told(self, told: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later, where it says nothing: models of before are told as they were."""
        return {name: value for name, value in told(self).items() if name != "steps" or value is not None}


def in_words(task: Task, history: PastRows | None) -> str:
    """What a model is asked for, for people."""
    if history is None or history.steps is None:
        return task
    return f"forecast, {history.steps.horizon} × {history.steps.length} ahead"


class Pixels(BaseModel):
    """How an image becomes columns: what it is in ``side`` × ``side`` equal areas, from 0 to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    side: Annotated[int, Field(ge=1, le=64)]
    colour: bool = False
    """Whether each area has three columns, red, green and blue, in place of its brightness."""

    @property
    def names(self) -> list[str]:
        """The columns, row by row."""
        ends = ("_0", "_1", "_2") if self.colour else ("",)
        return [f"p{row}_{column}{end}" for row in range(self.side) for column in range(self.side) for end in ends]


class Layout(BaseModel):
    """How the prepared tables are to be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    target: str
    classes: tuple[str | int | float | bool, ...] = ()
    """The labels as the user writes them, in the order of the model's outputs; binary: negative, positive."""
    features: tuple[Column, ...]
    protected: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = {}
    """Groups that the spec declares for a protected column, present in the data or not."""
    weight: str | None = None
    folding: Folding = Folding()
    history: PastRows | None = None
    """None where each row is taken by itself."""
    seasonal_error: float | None = None
    """Of a forecast: mean absolute error of the seasonal naive forecast in the training rows."""
    image: Pixels | None = None
    """How the source makes columns of an image; None where it has none."""
    quantiles: tuple[float, ...] = ()
    """Regression: which quantiles are predicted, rising; () for the mean."""

    @property
    def n_outputs(self) -> int:
        """Width of a prediction: 1 for binary (probability of the positive class) and for a regression's mean."""
        return len(self.classes) if self.task == "multiclass" else max(1, len(self.quantiles))


def band_names(edges: tuple[float, ...]) -> list[str]:
    """What the groups between upper-exclusive ``edges`` are called: one more than there are edges."""
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    return [f"under {edges[0]:g}", *between, f"{edges[-1]:g} and over"]


@dataclass(frozen=True)
class Design:
    """Rows as a candidate trains on them.

    ``X`` float32 [n, d]; ``y`` int64 class indices or float64 targets [n]; ``weight`` float64 [n] or None.
    """

    X: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None
    task: Task
    n_classes: int
    cardinalities: tuple[int, ...] = ()
    """Of each column of ``X``: how many categories its codes 0, 1, … tell apart (-1: one never seen), 0 for a
    number; () where all are numbers."""
    monotone: tuple[int, ...] = ()
    """Of each column of ``X``: 1 where the score of the positive class, or the prediction, may only rise with it,
    -1 where it may only fall, else 0; () where it may do either with all."""
    seasonal: int | None = None
    """Of a forecast: the column of ``X`` that holds the target one known season before, NaN where that is missing."""
    names: tuple[str, ...] = ()
    """Of each column of ``X``, as the features name it; () where nobody said."""
    quantile: float | None = None
    """Regression: the quantile that is to be predicted; None: the mean."""

    def rows(self, index: np.ndarray) -> Design:
        """The rows at ``index``."""
        weight = None if self.weight is None else self.weight[index]
        return replace(self, X=self.X[index], y=self.y[index], weight=weight)

    def weighted(self, class_weight: Literal["balanced"] | None) -> np.ndarray | None:
        """What each row counts, float64 [n]; None where all count the same.

        ``balanced``: in inverse proportion to how often its class is met, in all as much as before.
        """
        if class_weight is None or self.task == "regression":
            return self.weight
        import numpy as np

        weight = np.ones(len(self.y)) if self.weight is None else self.weight
        counts = np.bincount(self.y, weights=weight, minlength=self.n_classes)
        return np.asarray(weight * weight.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1e-12))[self.y])


def feature_values(table: pl.DataFrame, column: Column) -> np.ndarray | pl.Series:
    """A feature as ``kinds.Feature`` takes it: float64 [n] with NaN for missing, or a String series with ``MISSING``.

    Texts stay with polars: made into an object each, they take longer to read than to encode.
    """
    import numpy as np
    import polars as pl

    values = table[column.name]
    if column.kind == "categorical":
        return values.fill_null(MISSING)
    if column.kind == "text":
        return values.replace({MISSING: None}).fill_null("").str.slice(0, TEXT_READ)
    if column.kind == "datetime":
        times = values.cast(pl.Datetime("us", getattr(values.dtype, "time_zone", None))).dt.epoch("us")
        # Divided by numpy, as a request's times are by Python: polars multiplies by the reciprocal.
        return times.cast(pl.Float64).fill_null(float("nan")).to_numpy() / 1e6
    return values.cast(pl.Float64).to_numpy().astype(np.float64)  # a copy, in which what is null is NaN


def watched(values: pl.Series, column: Column) -> pl.Series:
    """What is described of a column and watched for drift: times in seconds, and of texts no more than their length."""
    import polars as pl

    if column.kind == "text":
        return values.replace({MISSING: None, "": None}).str.slice(0, TEXT_READ).str.len_chars().cast(pl.Float64)
    if column.kind == "datetime":
        return pl.Series(column.name, feature_values(pl.DataFrame([values]), column)).fill_nan(None)
    return values


def feature_array(table: pl.DataFrame, column: Column) -> np.ndarray:
    """A feature as the graph takes it: float64 [n] with NaN for missing, or str objects [n] with ``MISSING``."""
    import numpy as np

    values = feature_values(table, column)
    return values if isinstance(values, np.ndarray) else np.asarray(values.to_numpy(), dtype=object)
