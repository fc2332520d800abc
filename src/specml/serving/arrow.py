"""Arrow's IPC stream format as rows: flat columns of numbers, booleans, texts, dates and times.

Read here and not by pyarrow, polars or nanoarrow, since a body may come from anybody: the latter two end the process on
some altered bytes, and what is compressed may be far larger than the body. Here every buffer is a checked slice of the
body, nothing is unpacked, and rows, columns, batches and text are bounded. After ``format/Message.fbs`` and
``format/Schema.fbs`` of Arrow 1.5.
"""

from __future__ import annotations

import io
import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specml.serving.refusal import Refused, short
from specml.serving.request import too_many_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flatbuffers.table import Table

MOST_COLUMNS, MOST_MESSAGES = 10_000, 1_000
MOST_TEXT = 67_108_864
"""Bytes of all texts of a stream that is not larger itself: buffers, and views, may all be of the same bytes."""

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
NULL, INT, FLOAT, UTF8, BOOL, DATE, TIMESTAMP, LARGE_UTF8, VIEW = 1, 2, 3, 5, 6, 8, 10, 20, 24
TAKEN = "numbers, booleans, texts, dates and times are taken"


class _Wrong(Exception):
    """It is no valid stream."""


@dataclass(frozen=True)
class _Field:
    name: str
    type: int
    dtype: str
    """Of numbers and times: numpy's."""
    dictionary: int | None = None
    """The id of the dictionary that its values are in."""
    indices: str = ""
    """The dtype of its places there."""


class _Room:
    """How many bytes of texts may still come."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Refused(413, f"the texts of the stream have more than {self._most} bytes. Send the rows in parts.")


def read(raw: bytes, most: int, max_rows: int) -> list[dict[str, Any]]:
    """The rows of a stream: numbers, booleans, texts (times as in ISO 8601), and None where there is no value, or NaN.

    ``most``: values in all rows together.

    Raises:
        Refused: 400 for what is no such stream, or has other types; 413 for too much; 422 for no row.
    """
    try:
        return _read(memoryview(raw), most, max_rows)
    except (_Wrong, struct.error, ValueError, IndexError, OverflowError, TypeError, AttributeError):
        what = "the body is no stream of Arrow record batches"
        raise Refused(400, f"{what} (the file format and compressed buffers are not read either).") from None


def _read(raw: memoryview, most: int, max_rows: int) -> list[dict[str, Any]]:
    fields: list[_Field] | None = None
    dictionaries: dict[int, list[Any]] = {}
    rows: list[dict[str, Any]] = []
    room = _Room(max(MOST_TEXT, len(raw)))
    for number, (kind, header, body) in enumerate(_messages(raw)):
        if number >= MOST_MESSAGES:
            raise Refused(413, f"the stream has more than {MOST_MESSAGES} batches; write larger ones.")
        if fields is None:
            _check(kind == SCHEMA)
            fields = _schema(header)
        elif kind == DICTIONARY:
            identity, more = _scalar(header, 0, "q"), _scalar(header, 2, "B")
            owner = [field for field in fields if field.dictionary == identity][:1]
            (values,) = _columns(_table(header, 1), owner, body, {}, max_rows + MOST_COLUMNS, room=room, plain=True)
            if not more:
                dictionaries[identity] = []
            dictionaries.setdefault(identity, []).extend(values)
            if sum(map(len, dictionaries.values())) > most:
                raise Refused(413, f"the dictionaries hold more than {most} values. Send the rows in parts.")
        else:
            _check(kind == BATCH)
            length = _scalar(header, 0, "q")
            if len(rows) + length > max_rows:
                raise too_many_rows(len(rows) + length, max_rows)
            if (len(rows) + length) * len(fields) > most:
                raise Refused(413, f"the body holds more than {most} values. Send the rows in parts.")
            columns = _columns(header, fields, body, dictionaries, max_rows, room=room)
            names = [field.name for field in fields]
            rows += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    _check(fields is not None)
    if not rows:
        raise Refused(422, "the stream has no row.")
    return rows


def _messages(raw: memoryview) -> Iterator[tuple[int, Table, memoryview]]:
    """Kind, header and body of each message."""
    from flatbuffers.table import Table

    at = 0
    while at + 8 <= len(raw):
        mark, size = struct.unpack_from("<Ii", raw, at)
        _check(mark == 0xFFFFFFFF and 0 <= size <= len(raw) - at - 8)
        if size == 0:
            return
        metadata = bytes(raw[at + 8 : at + 8 + size])
        message = Table(metadata, struct.unpack_from("<I", metadata, 0)[0])
        length = _scalar(message, 3, "q")
        at += 8 + size
        _check(0 <= length <= len(raw) - at)
        yield _scalar(message, 1, "B"), _table(message, 2), raw[at : at + length]
        at += length


def _schema(header: Table) -> list[_Field]:
    _check(_scalar(header, 0, "h") == 0)  # little-endian
    fields = [_field(one) for one in _tables(header, 1)]
    names = [field.name for field in fields]
    if len({*names}) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise Refused(400, f"the column {short(twice)!r} stands twice in the stream.")
    return fields


def _field(told: Table) -> _Field:
    name, kind, about = _text(told, 0), _scalar(told, 2, "B"), _table(told, 3)
    dtypes: dict[int, Callable[[], str]] = {
        **dict.fromkeys((NULL, UTF8, LARGE_UTF8, BOOL, VIEW), str),
        INT: lambda: _int(about),
        FLOAT: lambda: f"<f{2 << _scalar(about, 0, 'h')}",
        DATE: lambda: "<M8[ms]" if _scalar(about, 0, "h", 1) else "D",
        TIMESTAMP: lambda: f"<M8[{('s', 'ms', 'us', 'ns')[_scalar(about, 0, 'h')]}]",
    }
    if kind not in dtypes:
        raise Refused(400, f"the column {short(name)!r} has an Arrow type that is not read; {TAKEN}.")
    dictionary = _table_or_none(told, 4)
    if dictionary is None:
        return _Field(name, kind, dtypes[kind]())
    index = _table_or_none(dictionary, 1)
    return _Field(name, kind, dtypes[kind](), _scalar(dictionary, 0, "q"), "<i4" if index is None else _int(index))


def _int(told: Table) -> str:
    bits = _scalar(told, 0, "i")
    _check(bits in (8, 16, 32, 64))
    return f"<{'i' if _scalar(told, 1, 'B') else 'u'}{bits // 8}"


def _columns(
    batch: Table,
    fields: list[_Field],
    body: memoryview,
    dictionaries: dict[int, list[Any]],
    max_rows: int,
    *,
    room: _Room,
    plain: bool = False,
) -> list[list[Any]]:
    """The values of a batch by column; ``plain``: it is a dictionary, whose values stand there themselves."""
    _check(_table_or_none(batch, 3) is None)  # compressed
    length = _scalar(batch, 0, "q")
    _check(0 <= length <= max_rows)
    nodes, places = _structs(batch, 1), iter(_structs(batch, 2))
    views = iter(_longs(batch, 4))
    _check(len(nodes) == len(fields))

    def buffer() -> memoryview:
        start, size = next(places, (0, -1))
        _check(start >= 0 and size >= 0 and start + size <= len(body))
        return body[start : start + size]

    found = []
    for field, (count, nulls) in zip(fields, nodes, strict=True):
        _check(count == length)
        if field.type == NULL:
            found.append([None] * length)
            continue
        validity = buffer()
        there = _bits(validity, length) if nulls and len(validity) else None
        if field.dictionary is not None and not plain:
            indices = np.frombuffer(buffer(), field.indices, length).astype(np.int64)
            known = dictionaries.get(field.dictionary, [])
            values = _looked_up(indices if there is None else np.where(there, indices, -1), known)
        elif field.type == VIEW:
            values = _viewed(buffer(), [buffer() for _ in range(next(views, 0))], length, room)
        elif field.type in (UTF8, LARGE_UTF8):
            values = _texts(buffer(), buffer(), "<i4" if field.type == UTF8 else "<i8", length, room)
        elif field.type == BOOL:
            values = _bits(buffer(), length).tolist()
        else:
            values = _numbers(buffer(), field.dtype, length)
        if there is not None:
            values = [value if one else None for value, one in zip(values, there.tolist(), strict=True)]
        found.append(values)
    return found


def _numbers(buffer: memoryview, dtype: str, length: int) -> list[Any]:
    values = np.frombuffer(buffer, "<i4" if dtype == "D" else dtype, length)
    if dtype == "D":
        values = values.astype("M8[D]")
    if values.dtype.kind == "M":
        if values.dtype == "<M8[ns]":
            values = values.astype("M8[us]")
        return [None if one == "NaT" else one for one in np.datetime_as_string(values).tolist()]
    told = values.tolist()
    return [None if one != one else one for one in told] if values.dtype.kind == "f" else told  # noqa: PLR0124 - NaN


def _bits(buffer: memoryview, length: int) -> np.ndarray:
    packed = np.frombuffer(buffer, np.uint8, (length + 7) // 8)
    return np.unpackbits(packed, count=length, bitorder="little").astype(bool)


def _texts(offsets: memoryview, data: memoryview, dtype: str, length: int, room: _Room) -> list[str]:
    if length == 0:
        return []
    ends = np.frombuffer(offsets, dtype, length + 1)
    _check(ends[0] >= 0 and ends[-1] <= len(data) and bool((np.diff(ends) >= 0).all()))
    room.take(int(ends[-1]) - int(ends[0]))
    places = ends.tolist()
    return [str(data[start:end], "utf-8") for start, end in itertools.pairwise(places)]


def _viewed(views: memoryview, data: list[memoryview], length: int, room: _Room) -> list[str]:
    """Texts of up to 12 bytes in the view itself, longer ones where it says."""
    told = np.frombuffer(views, "<i4", 4 * length).reshape(length, 4)
    _check(bool((told[:, 0] >= 0).all()))  # a negative size would make room
    room.take(int(told[:, 0].astype(np.int64).sum()))
    found = []
    for row, (size, _, which, start) in enumerate(told.tolist()):
        if size <= 12:
            found.append(str(views[16 * row + 4 : 16 * row + 4 + size], "utf-8"))
        else:
            _check(which >= 0 and start >= 0 and start + size <= len(data[which]))
            found.append(str(data[which][start : start + size], "utf-8"))
    return found


def _looked_up(places: np.ndarray, values: list[Any]) -> list[Any]:
    """The values at the places; -1 is where there is none."""
    found = places.tolist()
    _check(min(found, default=-1) >= -1)
    return [values[place] if place >= 0 else None for place in found]


def write(columns: dict[str, list[Any]]) -> bytes:
    """An answer's columns as a stream of one batch.

    Raises:
        Refused: 406; polars, which writes it, is not installed here.
    """
    try:
        import polars as pl
    except ImportError:
        raise Refused(406, "this server does not write Arrow; ask for application/json or text/csv.") from None
    arrays = {
        name: np.array(values) if isinstance(values[0], np.floating) else values for name, values in columns.items()
    }
    content = io.BytesIO()
    # The oldest types, which every reader knows.
    pl.DataFrame(arrays).write_ipc_stream(content, compat_level=pl.CompatLevel.oldest())
    return content.getvalue()


# Flatbuffers: a table's member by its place in the schema


def _check(holds: bool) -> None:
    if not holds:
        raise _Wrong


def _scalar(table: Table, slot: int, code: str, default: int = 0) -> int:
    offset = table.Offset(4 + 2 * slot)
    found: int = struct.unpack_from(f"<{code}", table.Bytes, table.Pos + offset)[0] if offset else default
    return found


def _table_or_none(table: Table, slot: int) -> Table | None:
    offset = table.Offset(4 + 2 * slot)
    return type(table)(table.Bytes, table.Indirect(table.Pos + offset)) if offset else None


def _table(table: Table, slot: int) -> Table:
    found = _table_or_none(table, slot)
    if found is None:
        raise _Wrong
    return found


def _vector(table: Table, slot: int, size: int) -> tuple[int, int]:
    """Where the members of a vector begin, and how many there are, of ``size`` bytes each."""
    offset = table.Offset(4 + 2 * slot)
    if not offset:
        return 0, 0
    start, length = table.Vector(offset), table.VectorLen(offset)
    _check(start >= 0 and start + length * size <= len(table.Bytes))
    return start, length


def _tables(table: Table, slot: int) -> list[Table]:
    start, length = _vector(table, slot, 4)
    if length > MOST_COLUMNS:
        raise Refused(413, f"the stream has {length} columns; at most {MOST_COLUMNS} are read.")
    return [type(table)(table.Bytes, table.Indirect(start + 4 * index)) for index in range(length)]


def _structs(table: Table, slot: int) -> list[tuple[int, int]]:
    """Pairs of longs."""
    start, length = _vector(table, slot, 16)
    _check(length <= 8 * MOST_COLUMNS)
    return list(struct.iter_unpack("<qq", table.Bytes[start : start + 16 * length]))


def _longs(table: Table, slot: int) -> list[int]:
    start, length = _vector(table, slot, 8)
    _check(length <= MOST_COLUMNS)
    return [one for (one,) in struct.iter_unpack("<q", table.Bytes[start : start + 8 * length])]


def _text(table: Table, slot: int) -> str:
    start, length = _vector(table, slot, 1)
    return bytes(table.Bytes[start : start + length]).decode()
