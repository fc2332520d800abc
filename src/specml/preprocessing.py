"""From a table's columns to the matrix that a model sees, in Python and in the graph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from specml.data import Column, feature_values
from specml.files import canonical_json, read_json
from specml.kinds import Feature, FittedFeature, Training

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np
    import polars as pl

    from specml.graph import Graph
    from specml.kinds import Values


@dataclass(frozen=True)
class Preprocessing:
    """Fitted features, one for each column, in the layout's order; the derived ones follow, by name."""

    columns: tuple[Column, ...]
    """What is treated: columns of the table, and derived ones."""
    types: tuple[str, ...]
    fitted: tuple[FittedFeature, ...]
    derived: Mapping[str, Feature] = field(default_factory=dict)
    """By its name, what makes a derived column."""
    inputs: tuple[Column, ...] = ()
    """What the graph takes, where that is not ``columns``: some are derived, or only read by those."""

    @classmethod
    def fit(
        cls, table: pl.DataFrame, columns: tuple[Column, ...], treatment: Mapping[str, Feature], training: Training
    ) -> Preprocessing:
        """Learn from the rows of ``table``; ``treatment`` is the feature of each column and derived column, by name.

        A column without one is only read by those that derive.
        """
        derived = {name: one for name, one in sorted(treatment.items()) if one.reads()}
        treated = tuple(c for c in columns if c.name in treatment)
        treated += tuple(Column(name=name, kind="numeric", nullable=True) for name in derived)
        types = tuple(treatment[c.name].type for c in treated)  # type: ignore[attr-defined]
        self = cls(treated, types, (), derived, () if treated == columns else columns)
        fitted = tuple(treatment[c.name].fit(c, self._values(table, c), training) for c in treated)
        return replace(self, fitted=fitted)

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return sum(len(one.names) for one in self.fitted)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each column of the matrix (see ``Design.names``)."""
        return tuple(name for one in self.fitted for name in one.names)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Of each column of the matrix (see ``Design.cardinalities``)."""
        return tuple(one.cardinality for one in self.fitted for _ in one.names)

    @property
    def monotone(self) -> tuple[int, ...]:
        """Of each column of the matrix (see ``Design.monotone``)."""
        told = tuple((one.monotone, *(0 for _ in one.names[1:])) for one in self.fitted if one.names)
        return sum(told, ()) if any(one.monotone for one in self.fitted) else ()

    def transform(self, table: pl.DataFrame) -> np.ndarray:
        """float32 [n, d]."""
        return self._matrix(table, lambda column, one, values: one.transform(values))

    def training_matrix(self, table: pl.DataFrame, treatment: Mapping[str, Feature], training: Training) -> np.ndarray:
        """The rows that ``fit`` learned from, as a model is trained on them: float32 [n, d]."""
        return self._matrix(
            table, lambda column, one, values: treatment[column.name].training_values(one, values, training)
        )

    def _matrix(self, table: pl.DataFrame, block: Callable[[Column, FittedFeature, Values], np.ndarray]) -> np.ndarray:
        import numpy as np

        out = np.empty((table.height, sum(len(one.names) for one in self.fitted)), dtype=np.float32)
        place = 0
        for column, one in zip(self.columns, self.fitted, strict=True):
            out[:, place : place + len(one.names)] = block(column, one, self._values(table, column))
            place += len(one.names)
        return out

    def _values(self, table: pl.DataFrame, column: Column) -> Values:
        maker = self.derived.get(column.name)
        if maker is None:
            return feature_values(table, column)
        read = maker.reads()
        return maker.derive({c.name: feature_values(table, c) for c in self.inputs if c.name in read})

    def to_onnx(self, graph: Graph) -> str:
        """Declare the columns as inputs of the graph; returns the float32 value [n, d]."""
        values = {c.name: graph.input(c.name, c.tensor) for c in self.inputs} if self.inputs else {}
        blocks = []
        for column, one in zip(self.columns, self.fitted, strict=True):
            if maker := self.derived.get(column.name):
                value = maker.derive_in(graph, {name: values[name] for name in maker.reads()})
            else:
                value = values.get(column.name) or graph.input(column.name, column.tensor)
            blocks.append(one.to_onnx(graph, value))
        return graph.node("Concat", *blocks, axis=1)

    def save(self, path: Path) -> None:
        """Write what was learned as JSON."""
        rows: list[dict[str, Any]] = [
            {"column": column.model_dump(mode="json"), "type": kind, "state": one.state()}
            for column, kind, one in zip(self.columns, self.types, self.fitted, strict=True)
        ]
        for row, column in zip(rows, self.columns, strict=True):
            if column.name in self.derived:
                row["derive"] = self.derived[column.name].model_dump(mode="json")
        inputs = [{"input": column.model_dump(mode="json")} for column in self.inputs]
        path.write_bytes(canonical_json(inputs + rows))

    @classmethod
    def load(cls, path: Path) -> Preprocessing:
        """What ``save`` wrote."""
        read = read_json(path)
        inputs = tuple(Column.model_validate(row["input"]) for row in read if "input" in row)
        rows = [row for row in read if "input" not in row]
        table: Any = Feature.table
        derived = {
            row["column"]["name"]: table[row["type"]].model_validate(row["derive"]) for row in rows if "derive" in row
        }
        fitted = tuple(table[row["type"]].restore(row["state"]) for row in rows)
        columns = tuple(Column.model_validate(row["column"]) for row in rows)
        return cls(columns, tuple(row["type"] for row in rows), fitted, derived, inputs)
