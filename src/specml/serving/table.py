"""Rows of a file for the model, and its predictions beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specml.data import blank, category, seconds
from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import polars as pl

    from specml.data import Kind

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
    """``table`` with what was predicted: ``predicted``, for classes their probabilities, and a server's ``id``.

    A prediction with an interval has its ``lower`` and ``upper`` end beside it, and one of quantiles these.
    """
    import polars as pl

    told: dict[str, list[Any]] = {}
    for prediction in predictions:
        told.setdefault("predicted", []).append(prediction.get("label", prediction.get("prediction")))
        for label, probability in prediction.get("probabilities", {}).items():
            told.setdefault(f"probability_{label}", []).append(probability)
        for name in prediction:
            if name in ("lower", "upper", "id") or name.startswith("quantile_"):
                told.setdefault(name, []).append(prediction[name])
    columns = []
    for name, values in told.items():
        free = name
        while free in table.columns:
            free += "_"
        columns.append(pl.Series(free, values))
    return table.with_columns(columns)


def _values(values: pl.Series, kind: Kind) -> list[Any]:
    if kind in ("categorical", "text"):
        return _categories(values)
    read, wanted = {
        "numeric": (_number, "a number"),
        "boolean": (_boolean, "true or false"),
        "datetime": (_time, "a time as in ISO 8601"),
    }[kind]
    answer = []
    for index, value in enumerate(values.to_list()):
        try:
            answer.append(None if _missing(value) else read(value))
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError):
            raise DataCheckFailed(
                f"row {index + 1} has {str(value)[:80]!r}, not {wanted}.", where=values.name
            ) from None
    return answer


def _categories(values: pl.Series) -> list[str | None]:
    """Each value by its name (``data.category``), as in training; None where it is missing."""
    import polars as pl

    kind = values.dtype
    if not (kind.is_float() or kind.is_integer() or kind in (pl.Boolean, pl.String)):
        refusal = DataCheckFailed(f"holds {kind} values, not categories.", where=values.name)
        if kind.is_nested():
            raise refusal
        try:
            values = values.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise refusal from None
    return [None if _missing(value) else category(value) for value in values.to_list()]


def _missing(value: Any) -> bool:
    if isinstance(value, str):
        return blank(value)
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _number(value: Any) -> float | int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def _time(value: Any) -> str:
    text = value if isinstance(value, str) else value.isoformat()
    seconds(text)
    return str(text)


def _boolean(value: Any) -> bool:
    return BOOLEANS[str(value).strip().lower()]
