"""The rows before a row, which a request brings along, as past values: columns of the row itself.

Rows of a history are counted from its end, as Python counts: ``[-1]`` is the latest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specml.data import looks_back, seconds
from specml.serving.refusal import Refused, did_you_mean, json_type, short

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.data import PastRows

KEY = "history"


def unrolled(rows: list[Any], contract: Contract) -> list[Any]:
    """``rows`` with past values in the place of ``history``; of more rows than the model takes the latest count.

    Raises:
        Refused: 422 for what is no list of rows, has an unknown column, or is in no order; the message names the place.
    """
    told = contract.history
    if told is None or not any(isinstance(row, dict) and KEY in row for row in rows):
        return rows
    steps = [(column.name, *step) for column in contract.inputs if (step := looks_back(column.name))]
    past = {name for name, _, _ in steps}
    known = {column.name for column in contract.inputs} - past | {*told.columns, told.time, *told.by}
    return [
        _unrolled(row, index, known, steps, told) if isinstance(row, dict) and KEY in row else row
        for index, row in enumerate(rows)
    ]


def _unrolled(
    row: dict[str, Any], index: int, known: set[str], steps: list[tuple[str, str, int]], told: PastRows
) -> dict[str, Any]:
    before, out = row[KEY], {name: value for name, value in row.items() if name != KEY}
    if not isinstance(before, list):
        raise Refused(422, f"rows[{index}].{KEY} is a JSON {json_type(before)}, not a list of rows.")
    before = before[-told.rows :]
    for place, one in enumerate(before, -len(before)):
        if not isinstance(one, dict):
            raise Refused(422, f"rows[{index}].{KEY}[{place}] is a JSON {json_type(one)}, not an object.")
        if not one.keys() <= known:
            stranger = min(one.keys() - known)
            what = f"rows[{index}].{KEY}[{place}].{short(stranger)} is no column of this model."
            raise Refused(422, f"{what}{did_you_mean(stranger, known)}")
    _refuse_disorder(row, before, f"rows[{index}].{KEY}", told)
    for name, of, back in steps:
        if name in out:
            raise Refused(422, f"rows[{index}] has {KEY} and {name!r}, which says the same: send one of the two.")
        if back <= len(before):
            out[name] = before[-back].get(of)
    return out


def _refuse_disorder(row: dict[str, Any], before: list[dict[str, Any]], at: str, told: PastRows) -> None:
    """Make sure that rows which say their time and group are in order, of one group, and earlier than ``row``."""
    group = {name: row[name] for name in told.by if name in row}
    last = -math.inf
    for place, one in enumerate(before, -len(before)):
        for name in told.by:
            if name in one and group.setdefault(name, one[name]) != one[name]:
                raise Refused(422, f"{at}[{place}].{name} is another than elsewhere: a history is of one {name}.")
        if one.get(told.time) is not None:
            now = _moment(one[told.time], f"{at}[{place}].{told.time}")
            if now < last:
                what = (
                    f"{at}[{place}].{told.time} is earlier than in the row before it: a history is told oldest first."
                )
                raise Refused(422, what)
            last = now
    if row.get(told.time) is not None and math.isfinite(last):
        own = _moment(row[told.time], f"{at.removesuffix(f'.{KEY}')}.{told.time}")
        if own <= last:
            raise Refused(422, f"{at} holds a row that is no earlier than the row itself, by {told.time}.")


def _moment(value: Any, at: str) -> float:
    if type(value) in (int, float):
        return float(value)
    if not isinstance(value, str):
        raise Refused(422, f"{at} is a JSON {json_type(value)}, no time.")
    try:
        return seconds(value)
    except ValueError as error:
        raise Refused(422, f"{at} {error}.") from None
