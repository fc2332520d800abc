"""A body of named rows, checked against the contract, as columns for the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from specml.data import FIRST, LAST, MISSING, TEXT_READ, blank, category, looks_back, seconds
from specml.serving import picture
from specml.serving.history import KEY, only_told, unrolled
from specml.serving.packed import BLOCK
from specml.serving.picture import pictured
from specml.serving.refusal import Refused, did_you_mean, json_type, short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from specml.bundle import Contract
    from specml.data import Column


class Rows:
    """The rows of a request: an array [n] of every graph input, float64 or object (str).

    Args:
        block: [k, n], float64: where they were read together, the columns ``blocked``; ``columns`` are the others.
    """

    __slots__ = ("_apart", "block", "blocked", "n", "others")

    def __init__(
        self, n: int, columns: dict[str, np.ndarray], block: np.ndarray | None = None, blocked: tuple[str, ...] = ()
    ) -> None:
        self.n, self.others, self.block, self.blocked = n, columns, block, blocked
        self._apart = columns if block is None else None

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Every column by its name."""
        if self._apart is None:
            assert self.block is not None
            self._apart = self.others | dict(zip(self.blocked, self.block, strict=True))
        return self._apart

    def part(self, start: int, stop: int) -> Rows:
        """Some of them, in memory of their own; all of them as they are."""
        if stop - start == self.n:
            return self
        others = {name: array[start:stop].copy() for name, array in self.others.items()}
        block = self.block if self.block is None else self.block[:, start:stop].copy()
        return Rows(stop - start, others, block, self.blocked)


def joined(parts: Sequence[Rows], packed: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The columns of all parts, one after the other; those that are ``packed`` as one ``BLOCK``, where it can be."""
    names = parts[0].blocked
    if not names or any(part.blocked != names for part in parts):
        return {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    blocks = [part.block for part in parts if part.block is not None]
    block = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)
    columns = {BLOCK: np.ascontiguousarray(block.T)} if names == packed else dict(zip(names, block, strict=True))
    for name in parts[0].others:
        columns[name] = np.concatenate([part.others[name] for part in parts])
    return columns


def blocked(contract: Contract) -> tuple[str, ...]:
    """The columns of a block: numbers, and flags after them."""
    return tuple(one.name for kind in ("numeric", "boolean") for one in contract.inputs if one.kind == kind)


def read_object(raw: bytes, most: int) -> dict[str, Any]:
    """The JSON object in ``raw``, of at most ``most`` values.

    Raises:
        Refused: 400; it is no JSON object, or says one key twice. 413; it holds too many values.
    """
    # Millions of empty arrays fit into an allowed body; to parse them would stop the replica for seconds.
    if len(raw) > most and sum(map(raw.count, (b",", b"[", b"{"))) > most and _values(raw) > most:
        raise Refused(413, f"the body holds more than {most} values. Send the rows in parts.")
    value, wrong = None, ""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        wrong = str(error)
    if wrong:  # raised out here: the error holds a copy of the body, and would live as long as the refusal
        raise Refused(400, f"the body is no valid JSON: {wrong}.")
    if not isinstance(value, dict):
        raise Refused(400, f"the body is a JSON {json_type(value)}, not an object.")
    try:
        if not keys_stand_once(raw, keys(value)):
            _refuse_duplicates(raw)
    except RecursionError:
        raise Refused(400, "the body is nested too deep.") from None
    return value


def keys_stand_once(raw: bytes, kept: int) -> bool:
    """Whether no key was lost where ``kept`` are left of the valid JSON ``raw``: of two equal ones, the last is kept.

    Every key has a colon; a text may hold more.
    """
    return raw.count(b":") == kept or _outside(raw, b":") == kept


def most_values(contract: Contract, max_rows: int) -> int:
    """How many values a body of ``max_rows`` rows may hold; far more than it needs when it is small.

    In tensors, a value may stand in an array of its own: two for each, and some for what is around them. A row before a
    row may have all of its columns.
    """
    told = contract.history
    width = len(contract.inputs) + 1
    if told is not None:
        now = sum(not looks_back(column.name) for column in contract.inputs)
        width += 1 + len(only_told(contract)) + told.rows * (now + len(told.columns) + len(told.by) + 2)
    return 2 * (max_rows + 16) * width + 10_000


def read_rows(raw: bytes, contract: Contract, max_rows: int, *, ignore_unknown: bool = False) -> Rows:
    """The rows of ``{"rows": [{column: value, …}, …]}``, or of ``{"columns": [column, …], "rows": [[value, …], …]}``.

    A column left out, or null, is missing. Numbers for a category become its text. Where the contract has a history, a
    row may bring along the rows before it, and say its own time and group (see ``history``).

    Raises:
        Refused: 400 for what is no JSON object, 413 for too many rows, 422 for rows that break the contract.
    """
    body = read_object(raw, most_values(contract, max_rows))
    rows = rows_of(body, max_rows, others=shares(contract))
    return named(rows, contract, body.get(KEY), ignore_unknown=ignore_unknown)


def shares(contract: Contract) -> tuple[str, ...]:
    """The keys that a body may have beside its rows: of a forecast one history for all of them."""
    return (KEY,) if contract.history and contract.history.steps else ()


def rows_of(body: dict[str, Any], max_rows: int, others: tuple[str, ...] = ()) -> list[Any]:
    """The list in a body's ``rows``, with the names in its ``columns``; it may have the keys ``others`` beside these.

    Raises:
        Refused: 413 for too many rows, 422 for what is no list of rows or another key.
    """
    for key in sorted(body.keys() - {"rows", "columns", *others}):
        more = "".join(f', "{other}": …' for other in others)
        raise Refused(422, f'{short(key)!r} is no key known here: the body is {{"rows": [...]{more}}}.')
    rows = body.get("rows")
    if not isinstance(rows, list):
        raise Refused(422, 'the body needs "rows": a list of objects, one for each row.')
    if not rows:
        raise Refused(422, "rows is empty.")
    if len(rows) > max_rows:
        raise too_many_rows(len(rows), max_rows)
    return _with_names(rows, body["columns"]) if "columns" in body else rows


def _with_names(rows: list[Any], columns: Any) -> list[dict[str, Any]]:
    """Rows whose values stand in the order of ``columns`` as objects."""
    if not isinstance(columns, list) or not all(type(name) is str for name in columns):
        raise Refused(422, "columns is no list of names.")
    if len(set(columns)) != len(columns):
        twice = next(name for place, name in enumerate(columns) if name in columns[:place])
        raise Refused(422, f"the column {short(twice)!r} stands twice.")
    for index, row in enumerate(rows):
        if type(row) is not list:
            raise Refused(422, f"rows[{index}] is a JSON {json_type(row)}, not an array of the values of columns.")
        if len(row) != len(columns):
            raise Refused(422, f"rows[{index}] has {len(row)} values; columns names {len(columns)}.")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def named(rows: list[Any], contract: Contract, shared: Any = None, *, ignore_unknown: bool = False) -> Rows:
    """``rows``, objects with values by column name, as columns; ``shared``: see ``history.unrolled``.

    ``ignore_unknown``: columns that the model does not have are not read; those of a history are refused all the same.

    Raises:
        Refused: 422; the message names row and column.
    """
    known = {column.name for column in contract.inputs}
    sent, rows = rows, pictured(unrolled(rows, contract, shared), contract)
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise Refused(422, f"rows[{index}] is a JSON {json_type(row)}, not an object.")
        if not ignore_unknown and not row.keys() <= known:
            stranger = min(row.keys() - known)
            hint = did_you_mean(stranger, known.union(only_told(contract), {picture.KEY} if contract.image else ()))
            raise Refused(422, f"rows[{index}].{short(stranger)} is no column of this model.{hint}")
    columns = {}
    for column in contract.inputs:
        name = column.name
        try:
            columns[name] = READ[column.kind](column, [row.get(name) for row in rows])
        except _Unfit as unfit:
            by_steps = contract.history is not None and contract.history.steps is not None
            raise Refused(422, f"{_at(column, unfit.row, sent, by_steps=by_steps)} {unfit.what}") from None
    return Rows(len(rows), columns)


class _Unfit(Exception):
    """A value that its column does not take: of which row, and what is wrong with it."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


def too_many_rows(rows: int, limit: int) -> Refused:
    """The refusal of a request with more rows than the server takes."""
    return Refused(413, f"the request has {rows} rows; at most {limit} are taken. Send them in parts.")


def _numbers(column: Column, values: list[Any]) -> np.ndarray:
    found = set(map(type, values))
    if not found <= {int, float, type(None)}:
        raise _wrong(values, (int, float), "a number")
    if type(None) in found:
        _refuse_missing(column, values)
        values = [np.nan if value is None else value for value in values]
    array = np.array(values, dtype=np.float64)
    if (endless := np.isinf(array)).any():  # which JSON has not
        raise _Unfit(int(endless.argmax()), "is infinite; the column takes a number.")
    return array


def _booleans(column: Column, values: list[Any]) -> np.ndarray:
    found = set(map(type, values))
    if not found <= {bool, type(None)}:
        raise _wrong(values, (bool,), "true or false")
    if type(None) in found:
        _refuse_missing(column, values)
        values = [np.nan if value is None else value for value in values]
    return np.array(values, dtype=np.float64)


def _categories(column: Column, values: list[Any]) -> np.ndarray:
    found = set(map(type, values))
    if not found <= {str, int, float, bool, type(None)}:
        raise _wrong(values, (str, int, float, bool), "a text")
    if found != {str}:
        values = [MISSING if value is None else category(value) for value in values]
    values = [MISSING if blank(value) else value for value in values]
    if not column.nullable and MISSING in values:
        raise _missing(values.index(MISSING))
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _times(column: Column, values: list[Any]) -> np.ndarray:
    if not set(map(type, values)) <= {str, type(None)}:
        raise _wrong(values, (str,), "a time as in ISO 8601")
    read = []
    for row, value in enumerate(values):
        try:
            read.append(np.nan if value is None else seconds(value))
        except ValueError as error:
            raise _Unfit(row, f"{error}.") from None
    if not column.nullable and None in values:
        raise _missing(values.index(None))
    if (far := beyond(np.array(read, dtype=np.float64))) is not None:
        raise _Unfit(far, "lies beyond the years 1 to 9999.")
    return np.array(read, dtype=np.float64)


def _texts(column: Column, values: list[Any]) -> np.ndarray:
    if not set(map(type, values)) <= {str, type(None)}:
        raise _wrong(values, (str,), "a text")
    if not column.nullable:
        missing = [row for row, value in enumerate(values) if value is None or blank(value)]
        if missing:
            raise _missing(missing[0])
    return text_array(values)


def beyond(times: np.ndarray) -> int | None:
    """The first of ``times`` (seconds, NaN: missing) that no calendar of the years 1 to 9999 has; None: all are there.

    A second more is let in: as a float64, the last microsecond of 9999 is the first of 10000.
    """
    found = (times < FIRST) | (times > LAST + 1)
    return int(found.argmax()) if found.any() else None


def text_array(values: list[str | None]) -> np.ndarray:
    """Texts as the graph takes them: a missing one is empty, a long one cut."""
    array = np.empty(len(values), dtype=object)
    array[:] = ["" if value is None or blank(value) else value[:TEXT_READ] for value in values]
    return array


READ: dict[str, Callable[[Column, list[Any]], np.ndarray]] = {
    "numeric": _numbers,
    "boolean": _booleans,
    "categorical": _categories,
    "datetime": _times,
    "text": _texts,
}


def _refuse_missing(column: Column, values: list[Any]) -> None:
    if not column.nullable:
        raise _missing(values.index(None))


def _at(column: Column, row: int, sent: list[Any], *, by_steps: bool) -> str:
    """Where a value stands in the rows as they were sent; in a history counted from its end, as in Python."""
    if by_steps and (found := looks_back(column.name)) and column.name not in sent[row]:
        return f"{found[0]} {found[1]} steps before rows[{row}]"
    step = looks_back(column.name) if KEY in sent[row] else None
    return f"rows[{row}].{KEY}[-{step[1]}].{step[0]}" if step else f"rows[{row}].{column.name}"


def _missing(row: int) -> _Unfit:
    return _Unfit(row, "is missing; this column always needs a value.")


def _wrong(values: list[Any], allowed: tuple[type, ...], wanted: str) -> _Unfit:
    row = next(index for index, value in enumerate(values) if value is not None and type(value) not in allowed)
    seen = short(orjson.dumps(values[row]).decode())
    return _Unfit(row, f"is {seen}; the column takes {wanted}.")


def _values(raw: bytes) -> int:
    """At least as many as the values, arrays and objects in JSON: commas and brackets outside its texts."""
    return _outside(raw, b",[{")


def _outside(raw: bytes, signs: bytes) -> int:
    """How many of some signs stand outside the texts of JSON."""
    plain = np.frombuffer(raw.replace(b"\\\\", b"").replace(b'\\"', b""), dtype=np.uint8)
    outside = np.bitwise_xor.accumulate((plain == ord('"')).view(np.uint8)) == 0
    return sum(int(np.count_nonzero(outside & (plain == sign))) for sign in signs)


def keys(value: Any) -> int:
    """How many keys the objects in a JSON value have."""
    if isinstance(value, dict):
        return len(value) + sum(keys(part) for part in value.values() if isinstance(part, (dict, list)))
    if isinstance(value, list):
        return sum(keys(part) for part in value if isinstance(part, (dict, list)))
    return 0


def _refuse_duplicates(raw: bytes) -> None:
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise Refused(400, f"the key {short(key)!r} stands twice in one JSON object.")
            found[key] = value
        return found

    json.loads(raw, object_pairs_hook=unique)
