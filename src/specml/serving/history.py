"""The rows before a row, which a request brings along, as past values: columns of the row itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specml.data import looks_back
from specml.serving.refusal import Refused, did_you_mean, json_type, short

if TYPE_CHECKING:
    from specml.bundle import Contract

KEY = "history"


def unrolled(rows: list[Any], contract: Contract) -> list[Any]:
    """``rows`` with past values in the place of ``history``; of more rows than the model takes the latest count.

    Raises:
        Refused: 422 for what is no list of rows, or has an unknown column; the message names the place.
    """
    told = contract.history
    if told is None or not any(isinstance(row, dict) and KEY in row for row in rows):
        return rows
    steps = [(column.name, *step) for column in contract.inputs if (step := looks_back(column.name))]
    past = {name for name, _, _ in steps}
    known = {column.name for column in contract.inputs} - past | {*told.columns, told.time, *told.by}
    return [
        _unrolled(row, index, known, steps, told.rows) if isinstance(row, dict) and KEY in row else row
        for index, row in enumerate(rows)
    ]


def _unrolled(
    row: dict[str, Any], index: int, known: set[str], steps: list[tuple[str, str, int]], most: int
) -> dict[str, Any]:
    before, out = row[KEY], {name: value for name, value in row.items() if name != KEY}
    if not isinstance(before, list):
        raise Refused(422, f"rows[{index}].{KEY} is a JSON {json_type(before)}, not a list of rows.")
    for place, one in enumerate(before[-most:], max(0, len(before) - most)):
        if not isinstance(one, dict):
            raise Refused(422, f"rows[{index}].{KEY}[{place}] is a JSON {json_type(one)}, not an object.")
        if not one.keys() <= known:
            stranger = min(one.keys() - known)
            what = f"rows[{index}].{KEY}[{place}].{short(stranger)} is no column of this model."
            raise Refused(422, f"{what}{did_you_mean(stranger, known)}")
    for name, of, back in steps:
        if name in out:
            raise Refused(422, f"rows[{index}] has {KEY} and {name!r}, which says the same: send one of the two.")
        if back <= len(before):
            out[name] = before[-back].get(of)
    return out
