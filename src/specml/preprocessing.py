"""From a table's columns to the matrix that a model sees, in Python and in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specml.data import Column, feature_values
from specml.files import canonical_json, read_json
from specml.kinds import Feature, FittedFeature, Preference

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import polars as pl

    from specml.graph import Graph


@dataclass(frozen=True)
class Preprocessing:
    """Fitted features, one for each column, in the layout's order."""

    columns: tuple[Column, ...]
    types: tuple[str, ...]
    fitted: tuple[FittedFeature, ...]

    @classmethod
    def fit(
        cls, table: pl.DataFrame, columns: tuple[Column, ...], treatment: Mapping[str, Feature], prefers: Preference
    ) -> Preprocessing:
        """Learn from the rows of ``table``; ``treatment`` is the feature of each column, by name."""
        fitted = tuple(treatment[c.name].fit(c, feature_values(table, c), prefers) for c in columns)
        return cls(columns, tuple(treatment[c.name].type for c in columns), fitted)  # type: ignore[attr-defined]

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Of each column of the matrix (see ``Design.cardinalities``)."""
        return tuple(one.cardinality for one in self.fitted for _ in one.names)

    def transform(self, table: pl.DataFrame) -> np.ndarray:
        """float32 [n, d]."""
        import numpy as np

        out = np.empty((table.height, sum(len(one.names) for one in self.fitted)), dtype=np.float32)
        place = 0
        for column, one in zip(self.columns, self.fitted, strict=True):
            out[:, place : place + len(one.names)] = one.transform(feature_values(table, column))
            place += len(one.names)
        return out

    def to_onnx(self, graph: Graph) -> str:
        """Declare the columns as inputs of the graph; returns the float32 value [n, d]."""
        blocks = []
        for column, one in zip(self.columns, self.fitted, strict=True):
            dtype = "string" if column.kind == "categorical" else "float64"
            blocks.append(one.to_onnx(graph, graph.input(column.name, dtype)))  # type: ignore[arg-type]
        return graph.node("Concat", *blocks, axis=1)

    def save(self, path: Path) -> None:
        """Write what was learned as JSON."""
        rows: list[dict[str, Any]] = [
            {"column": column.model_dump(mode="json"), "type": kind, "state": one.state()}
            for column, kind, one in zip(self.columns, self.types, self.fitted, strict=True)
        ]
        path.write_bytes(canonical_json(rows))

    @classmethod
    def load(cls, path: Path) -> Preprocessing:
        """What ``save`` wrote."""
        rows = read_json(path)
        fitted = tuple(Feature.table[row["type"]].restore(row["state"]) for row in rows)  # type: ignore[attr-defined]
        columns = tuple(Column.model_validate(row["column"]) for row in rows)
        return cls(columns, tuple(row["type"] for row in rows), fitted)
