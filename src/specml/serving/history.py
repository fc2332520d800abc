"""The rows before a row, which a request brings along, as past values: columns of the row itself.

A row may say its own time and group, whether or not they are columns of the model: its history is held against them.
Rows of a history are counted from its end, as Python counts: ``[-1]`` is the latest. A model that forecasts finds them
by their time instead; all rows of a request may then have one history.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from specml.data import EPOCH, FIRST, LAST, MONTHS, category, iso, looks_back, seconds
from specml.serving.refusal import Refused, did_you_mean, json_type, short

if TYPE_CHECKING:
    from collections.abc import Iterable

    from specml.bundle import Contract
    from specml.data import PastRows, Steps

KEY = "history"


def only_told(contract: Contract) -> list[str]:
    """What a row may say of itself for its history's sake, though it is no column of the model: its time and group."""
    told = contract.history
    inputs = {column.name for column in contract.inputs}
    return [] if told is None else [name for name in (told.time, *told.by) if name not in inputs]


def unrolled(rows: list[Any], contract: Contract, shared: Any = None) -> list[Any]:
    """``rows`` with past values in the place of ``history``; of more rows than the model takes the latest count.

    What is told for the history's sake alone is left out. ``shared``: of a forecast, the history of the rows that have
    none of their own.

    Raises:
        Refused: 422 for what is no list of rows, has an unknown column, or is in no order; the message names the place.
    """
    told, ours = contract.history, {KEY, *only_told(contract)}
    if told is not None and told.steps is not None:
        return by_steps(rows, [column.name for column in contract.inputs], told, told.steps, shared)
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
        _refuse_strangers(one, f"rows[{index}].{KEY}[{place}]", known)
    _refuse_disorder(row, before, f"rows[{index}].{KEY}", told)
    for name, of, back in steps if KEY in row else []:
        if name in row:
            raise Refused(422, f"rows[{index}] has {KEY} and {name!r}, which says the same: send one of the two.")
        if back <= len(before):
            out[name] = before[-back].get(of)
    return out


def _refuse_strangers(one: Any, at: str, known: set[str]) -> None:
    if not isinstance(one, dict):
        raise Refused(422, f"{at} is a JSON {json_type(one)}, not an object.")
    if not one.keys() <= known:
        stranger = min(one.keys() - known)
        what = f"{at}.{short(stranger)} is no column of this model."
        raise Refused(422, f"{what}{did_you_mean(stranger, known)}")


def _refuse_disorder(row: dict[str, Any], before: list[dict[str, Any]], at: str, told: PastRows) -> None:
    """Make sure that rows which say their time and group are in order, of one group, and earlier than ``row``."""
    here, last = at.removesuffix(f".{KEY}"), -math.inf
    group = _group(row, told, here)
    for place, one in enumerate(before, -len(before)):
        _same_group(group, one, f"{at}[{place}]", told)
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


def _same_group(group: dict[str, str], one: dict[str, Any], at: str, told: PastRows) -> None:
    for name, value in _group(one, told, at).items():
        if group.setdefault(name, value) != value:
            raise Refused(422, f"{at}.{name} is another than elsewhere: a history is of one {name}.")


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


@dataclass(frozen=True)
class _Past:
    """The rows that a history has, by series and by the number of their step."""

    rows: dict[tuple[tuple[str, ...], int], dict[str, Any]]
    latest: dict[tuple[str, ...], int]
    """Of each series the last step of which something is known."""
    offset: int | None
    """How many microseconds after a whole number of steps since 1970 they stand; None where there are none."""


def by_steps(
    rows: list[Any], inputs: Iterable[str], told: PastRows, steps: Steps, shared: Any = None
) -> list[dict[str, Any]]:
    """As ``unrolled``, of a model that counts in steps of time: what is looked back at is found by its time."""
    inputs = set(inputs)
    wanted = [(name, *step) for name in sorted(inputs) if (step := looks_back(name))]
    known = inputs - {name for name, _, _ in wanted} | {*told.columns, told.time, *told.by}
    left_out = {KEY, told.time, *told.by} - (inputs - {KEY})
    ours = None if shared is None else _past(shared, KEY, known, told, steps)
    out = []
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            out.append(row)
            continue
        here, series = f"rows[{index}]", tuple[str, ...]()
        made = {name: value for name, value in row.items() if name not in left_out}
        out.append(made)
        if KEY in row:
            past = _past(row[KEY], f"{here}.{KEY}", known, told, steps, row=row)
        elif ours is not None:
            past, series = ours, _series(row, told, here)
        elif any(name in row for name, _, _ in wanted):
            continue
        else:
            raise Refused(422, f"{here} has no {KEY}, and none of the past values that are made from it.")
        now = _now(row, here, told, past)
        _refuse_far(now, series, here, past, steps)
        for name, of, back in wanted:
            if name in row:
                raise Refused(422, f"{here} has {KEY} and {name!r}, which says the same: send one of the two.")
            if found := past.rows.get((series, now - back)):
                made[name] = found.get(of)
    return out


def _past(
    before: Any, at: str, known: set[str], told: PastRows, steps: Steps, *, row: dict[str, Any] | None = None
) -> _Past:
    """Read a history: that of ``row``, or of many series together."""
    if not isinstance(before, list):
        raise Refused(422, f"{at} is a JSON {json_type(before)}, not a list of rows.")
    rows: dict[tuple[tuple[str, ...], int], dict[str, Any]] = {}
    latest: dict[tuple[str, ...], int] = {}
    offset = None
    group = {} if row is None else _group(row, told, at.removesuffix(f".{KEY}"))
    for place, one in enumerate(before, -len(before)):
        here, series = f"{at}[{place}]", tuple[str, ...]()
        _refuse_strangers(one, here, known)
        if one.get(told.time) is None:
            raise Refused(422, f"{here} has no {told.time}, by which it is found.")
        number, after = numbered(_moment(one[told.time], f"{here}.{told.time}"), steps)
        if offset not in (None, after):
            raise Refused(422, f"{here}.{told.time} stands between the steps of the rows before it.")
        offset = after
        if row is None:
            series = _series(one, told, here)
        else:
            _same_group(group, one, here, told)
        if rows.setdefault((series, number), one) is not one:
            raise Refused(422, f"{here} stands in the same step as another row of its series, by {told.time}.")
        if any(one.get(of) is not None for of in told.columns):
            latest[series] = max(number, latest.get(series, number))
    return _Past(rows, latest, offset)


def _now(row: dict[str, Any], here: str, told: PastRows, past: _Past) -> int:
    """The number of the row's step."""
    assert told.steps is not None
    if row.get(told.time) is None:
        raise Refused(422, f"{here} has no {told.time}, by which its history is found.")
    number, offset = numbered(_moment(row[told.time], f"{here}.{told.time}"), told.steps)
    if past.offset is not None and offset != past.offset:
        raise Refused(422, f"{here}.{told.time} stands between the steps of its history.")
    return number


def _refuse_far(number: int, series: tuple[str, ...], here: str, past: _Past, steps: Steps) -> None:
    """Make sure that the model can tell a row from what is known of its series."""
    if series not in past.latest:
        raise Refused(422, f"{here} has no history: no row of its series is known.")
    if (ahead := number - past.latest[series]) > steps.horizon:
        what = f"{here} is {ahead} steps later than what is known of its series; the model tells {steps.horizon} ahead."
        raise Refused(422, what)


def _series(row: dict[str, Any], told: PastRows, at: str) -> tuple[str, ...]:
    said = _group(row, told, at)
    for name in told.by:
        if name not in said:
            raise Refused(422, f"{at} has no {name}, which tells series apart.")
    return tuple(said[name] for name in told.by)


def numbered(time: float, steps: Steps) -> tuple[int, int]:
    """The step in which a time (seconds since 1970, UTC) stands, and how many microseconds after its beginning.

    Of the calendar it does not matter when in a step a time is. As ``tables.history.numbered`` counts.
    """
    if not isinstance(steps.step, str):
        return divmod(round(time * 1e6), round(steps.step * 1e6))
    day = EPOCH + timedelta(seconds=min(max(time, FIRST), LAST))
    return (day.year * 12 + day.month - 1) // MONTHS[steps.step], 0


def before_by(time: str, count: int, steps: Steps) -> str:
    """The time that is ``count`` steps before another, both as ISO 8601."""
    if not isinstance(steps.step, str):
        return iso(seconds(time) - count * steps.step)
    months = (numbered(seconds(time), steps)[0] - count) * MONTHS[steps.step]
    return f"{months // 12:04d}-{months % 12 + 1:02d}-01T00:00:00Z"
