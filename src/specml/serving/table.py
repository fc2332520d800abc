"""Rows of a file for the model, and its predictions beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from specml.data import MISSING
from specml.errors import DataCheckFailed
from specml.serving.request import text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import polars as pl

    Kind = Literal["numeric", "boolean", "categorical"]

BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False, "1.0": True, "0.0": False}


def to_rows(table: pl.DataFrame, columns: Mapping[str, Kind]) -> list[dict[str, Any]]:
    """The rows of ``table`` as ``/predict`` takes them: only the model's columns, in its types.

    Raises:
        DataCheckFailed: a value can't be read as its column's type.
    """
    values = {name: _values(table[name], kind) for name, kind in columns.items() if name in table.columns}
    if not values:
        raise DataCheckFailed(
            f"the file has none of the model's columns: {', '.join(columns)}.",
            hint=f"It has: {', '.join(table.columns)}.",
        )
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def with_predictions(table: pl.DataFrame, predictions: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    """``table`` with what was predicted: ``predicted`` and, for classes, their probabilities."""
    import polars as pl

    told: dict[str, list[Any]] = {}
    for prediction in predictions:
        told.setdefault("predicted", []).append(prediction.get("label", prediction.get("prediction")))
        for label, probability in prediction.get("probabilities", {}).items():
            told.setdefault(f"probability_{label}", []).append(probability)
    columns = []
    for name, values in told.items():
        free = name
        while free in table.columns:
            free += "_"
        columns.append(pl.Series(free, values))
    return table.with_columns(columns)


def _values(values: pl.Series, kind: Kind) -> list[Any]:
    found = values.to_list()
    if kind == "categorical":
        whole = values.dtype.is_float() and all(value is None or value == round(value) for value in found)
        return [
            None
            if value is None or value == MISSING
            else text(int(value) if whole else value)
            if _plain(value)
            else str(value)
            for value in found
        ]
    read = _number if kind == "numeric" else _boolean
    answer = []
    for index, value in enumerate(found):
        try:
            answer.append(None if value is None or value == MISSING else read(value))
        except (ValueError, KeyError, TypeError):
            wanted = "a number" if kind == "numeric" else "true or false"
            raise DataCheckFailed(
                f"row {index + 1} has {str(value)[:80]!r}, not {wanted}.", where=values.name
            ) from None
    return answer


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))


def _number(value: Any) -> float | int | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _boolean(value: Any) -> bool:
    return BOOLEANS[str(value).strip().lower()]
