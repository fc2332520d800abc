"""Tables, column roles and the model's view of them.

A table is a polars frame; a *design* is what a candidate sees of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

Task = Literal["binary", "multiclass", "regression"]
Role = Literal["feature", "target", "id", "protected", "weight", "time", "ignore"]
DType = Literal["float", "int", "bool", "category", "datetime"]

MISSING = "__missing__"
"""What a missing category is called, everywhere: in the stored tables, the graph and a request."""


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


class Column(BaseModel):
    """One feature as the model knows it: the same facts in the tables, the contract and the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: Literal["numeric", "boolean", "categorical"]
    integral: bool = False
    """Whole numbers only in the data that the model was trained on."""
    nullable: bool = False
    """Whether a value may be missing."""
    minimum: float | None = None
    """Smallest value in the training rows; None for categories and empty columns."""
    maximum: float | None = None
    categories: tuple[str, ...] = ()
    """Categories in the training rows, sorted, without the missing one; at most ``max_categories`` of them."""

    @property
    def tensor(self) -> Literal["float64", "string"]:
        """What it is in the graph, [rows, 1]."""
        return "string" if self.kind == "categorical" else "float64"


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
    time: str | None = None
    """The column of the training table that counts the times of a split by time, from the earliest on."""

    @property
    def n_outputs(self) -> int:
        """Width of a prediction: 1 for binary (probability of the positive class) and regression."""
        return len(self.classes) if self.task == "multiclass" else 1


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

    def rows(self, index: np.ndarray) -> Design:
        """The rows at ``index``."""
        weight = None if self.weight is None else self.weight[index]
        return Design(
            self.X[index], self.y[index], weight, self.task, self.n_classes, self.cardinalities, self.monotone
        )


def feature_values(table: pl.DataFrame, column: Column) -> np.ndarray | pl.Series:
    """A feature as ``kinds.Feature`` takes it: float64 [n] with NaN for missing, or a String series with ``MISSING``.

    Texts stay with polars: made into an object each, they take longer to read than to encode.
    """
    import numpy as np
    import polars as pl

    values = table[column.name]
    if column.kind == "categorical":
        return values.fill_null(MISSING)
    return values.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


def feature_array(table: pl.DataFrame, column: Column) -> np.ndarray:
    """A feature as the graph takes it: float64 [n] with NaN for missing, or str objects [n] with ``MISSING``."""
    import numpy as np

    values = feature_values(table, column)
    return values if isinstance(values, np.ndarray) else np.asarray(values.to_numpy(), dtype=object)
