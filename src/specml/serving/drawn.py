"""Rows made of a contract, of nobody: what a session is warmed up, checked and timed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specml.data import MISSING

if TYPE_CHECKING:
    import numpy as np

    from specml.bundle import Contract
    from specml.data import Column

GOLDEN = 0.6180339887498949
"""Its multiples fill a range evenly, however many of them there are."""
RARE = 13
"""Every so many rows, a value lacks where it may."""


def drawn(contract: Contract, rows: int) -> dict[str, np.ndarray]:
    """Columns [rows] that the model takes, all over their ranges; the same for the same contract."""
    return {column.name: _values(column, place, rows) for place, column in enumerate(contract.inputs)}


def _values(column: Column, place: int, rows: int) -> np.ndarray:
    import numpy as np

    at = np.arange(rows)
    share = ((at + 1) * GOLDEN + place * GOLDEN * GOLDEN) % 1.0
    lacks = (at + place) % RARE == 0 if column.nullable else np.zeros(rows, dtype=bool)
    if column.tensor == "string":
        known = column.categories if column.kind == "categorical" else ("any text", "another text of some words")
        texts: np.ndarray = np.array(known or ("any",), dtype=object)[(share * len(known or ("any",))).astype(int)]
        texts[lacks] = MISSING if column.kind == "categorical" else ""
        return texts
    low, high = column.minimum, column.maximum
    values: np.ndarray = (low or 0.0) + share * ((high if high is not None else 1.0) - (low or 0.0))
    if column.integral or column.kind == "boolean":
        values = np.round(values)
    values[lacks] = np.nan
    return values
