"""The rows before a row, which a request brings along, as past values: columns of the row itself.

A row may say its own time and group, whether or not they are columns of the model: its history is held against them.
Rows of a history are counted from its end, as Python counts: ``[-1]`` is the latest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from specml.data import category, looks_back, seconds
from specml.serving.refusal import Refused, did_you_mean, json_type, short

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.data import PastRows

KEY = "history"


def only_told(contract: Contract) -> list[str]:
    """What a row may say of itself for its history's sake, though it is no column of the model: its time and group."""
    told = contract.history
    inputs = {column.name for column in contract.inputs}
    return [] if told is None else [name for name in (told.time, *told.by) if name not in inputs]


def unrolled(rows: list[Any], contract: Contract) -> list[Any]:
    """``rows`` with past values in the place of ``history``; of more rows than the model takes the latest count.

    What is told for the history's sake alone is left out.

    Raises:
        Refused: 422 for what is no list of rows, has an unknown column, or is in no order; the message names the place.
    """
    told, ours = contract.history, {KEY, *only_told(contract)}
    if told is None or all(not isinstance(row, dict) or ours.isdisjoint(row) for row in rows):
        return rows
    steps = [(column.name, *step) for column in contract.inputs if (step := looks_back(column.name))]
    past = {name for name, _, _ in steps}
    known = {column.name for column in contract.inputs} - past | {*told.columns, told.time, *told.by}
    return [
        row
        if not isinstance(row, dict) or ours.isdisjoint(row)
        else {name: value for name, value in _unrolled(row, index, known, steps, told).items() if name not in ours}
        for index, row in enumerate(rows)
    ]


def _unrolled(
    row: dict[str, Any], index: int, known: set[str], steps: list[tuple[str, str, int]], told: PastRows
) -> dict[str, Any]:
    before, out = row.get(KEY, []), dict(row)
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
    for name, of, back in steps if KEY in row else []:
        if name in row:
            raise Refused(422, f"rows[{index}] has {KEY} and {name!r}, which says the same: send one of the two.")
        if back <= len(before):
            out[name] = before[-back].get(of)
    return out


def _refuse_disorder(row: dict[str, Any], before: list[dict[str, Any]], at: str, told: PastRows) -> None:
    """Make sure that rows which say their time and group are in order, of one group, and earlier than ``row``."""
    here, last = at.removesuffix(f".{KEY}"), -math.inf
    group = _group(row, told, here)
    for place, one in enumerate(before, -len(before)):
        for name, value in _group(one, told, f"{at}[{place}]").items():
            if group.setdefault(name, value) != value:
                raise Refused(422, f"{at}[{place}].{name} is another than elsewhere: a history is of one {name}.")
        if one.get(told.time) is not None:
            now = _moment(one[told.time], f"{at}[{place}].{told.time}")
            if now < last:
                what = (
                    f"{at}[{place}].{told.time} is earlier than in the row before it: a history is told oldest first."
                )
                raise Refused(422, what)
            last = now
    if row.get(told.time) is not None and _moment(row[told.time], f"{here}.{told.time}") <= last:
        raise Refused(422, f"{at} holds a row that is no earlier than the row itself, by {told.time}.")


def _group(row: dict[str, Any], told: PastRows, at: str) -> dict[str, str]:
    """What a row says of its group, by the names that its values have as categories: ``1`` is ``"1"``."""
    said = {name: row[name] for name in told.by if row.get(name) is not None}
    for name, value in said.items():
        if not isinstance(value, (str, int, float)):
            raise Refused(422, f"{at}.{name} is a JSON {json_type(value)}, which names no {name}.")
    return {name: category(value) for name, value in said.items()}


def _moment(value: Any, at: str) -> float:
    if type(value) in (int, float):
        return float(value)
    if not isinstance(value, str):
        raise Refused(422, f"{at} is a JSON {json_type(value)}, no time.")
    try:
        return seconds(value)
    except ValueError as error:
        raise Refused(422, f"{at} {error}.") from None
