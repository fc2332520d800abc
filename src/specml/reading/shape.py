"""How many values each record of a separated text has: what a fast parser would fill up or mistake is refused first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

CHUNK = 1 << 22
"""Bytes looked at together: some arrays of that length are made of them."""
QUOTE, NEWLINE, RETURN = b'"\n\r'


@dataclass
class Faults:
    """Records at fault: how many, and the line of the first."""

    count: int = 0
    line: int = 0
    values: int = 0
    """How many values the first one has."""

    def add(self, count: int, line: int, values: int = 0) -> None:
        """More of them; ``line`` and ``values`` are the first one's."""
        if count and not self.count:
            self.line, self.values = line, values
        self.count += count


@dataclass
class Shape:
    """What was seen of a text."""

    width: int = 0
    """Values in the header."""
    records: int = 0
    """Records below the header, blank lines among them."""
    blank: list[int] = field(default_factory=list)
    """Blank lines, by their number among the records below the header."""
    ragged: Faults = field(default_factory=Faults)
    zeros: Faults = field(default_factory=Faults)
    strays: Faults = field(default_factory=Faults)
    """Quotation marks that open within a value."""
    open_line: int = 0
    """Where the quotation opened that never closes; 0: none does."""


def refuse_misshapen(text: bytes, separator: str, where: str) -> Shape:
    """Make sure that every record of ``text`` has as many values as its header.

    Raises:
        DataCheckFailed: some have another number, or there are NUL bytes or unpaired quotation marks; the line of the
            first and the count are told.
    """
    shape = _shape(text, separator)
    if shape.zeros.count:
        what = f"holds {shape.zeros.count:,} NUL bytes, the first in line {shape.zeros.line:,}."
        hint = "It is binary, damaged, or in UTF-16 without a byte order mark: then say encoding: utf-16-le."
        raise DataCheckFailed(what, hint=hint, where=where)
    if shape.strays.count:
        what = f"{shape.strays.count:,} quotation marks open within a value, the first in line {shape.strays.line:,}."
        hint = 'Such a value is written in quotation marks, those inside it doubled: "5"" disk".'
        raise DataCheckFailed(what, hint=hint, where=where)
    if shape.open_line:
        raise DataCheckFailed(f"the quotation mark in line {shape.open_line:,} lacks its twin.", where=where)
    if shape.ragged.count:
        what = (
            f"{shape.ragged.count:,} of {shape.records - len(shape.blank):,} rows have another number of values than "
            f"the header's {shape.width}; the first, in line {shape.ragged.line:,}, has {shape.ragged.values}."
        )
        hint = f"The separator is {separator!r}; a value that holds one stands in quotation marks."
        raise DataCheckFailed(what, hint=hint, where=where)
    return shape


def _shape(text: bytes, separator: str) -> Shape:
    import numpy as np

    shape, line, inside, open_line = Shape(), 1, False, 0
    before, values, length = NEWLINE, 0, 0  # the byte before, and what is known of the record at hand
    started = line
    for chunk in _chunks(text):
        newlines = chunk == NEWLINE
        lines = line + np.cumsum(newlines, dtype=np.int64) - newlines  # the line of each byte
        zeros = np.flatnonzero(chunk == 0)
        shape.zeros.add(len(zeros), int(lines[zeros[0]]) if len(zeros) else 0)
        within = _within(chunk, inside=inside)
        if within is not None:
            previous = np.concatenate((np.array([before], np.uint8), chunk[:-1]))
            begins = np.isin(previous, np.array([ord(separator), NEWLINE, QUOTE], np.uint8))
            strays = np.flatnonzero((chunk == QUOTE) & within & ~begins)  # one after another is a doubled one
            shape.strays.add(len(strays), int(lines[strays[0]]) if len(strays) else 0)
            opened = np.flatnonzero(within & (chunk == QUOTE))
            open_line = int(lines[opened[-1]]) if len(opened) else open_line
            inside = bool(within[-1])
        outside = slice(None) if within is None else ~within
        ends = np.flatnonzero(newlines if within is None else newlines & outside)
        separators = chunk == ord(separator)
        if within is not None:
            separators &= outside
        seen = np.cumsum(separators, dtype=np.int64)
        counts = np.diff(seen[ends], prepend=0) + 1
        lengths = np.diff(ends, prepend=-1) - 1
        starts = np.concatenate(([started], lines[ends[:-1]] + 1)) if len(ends) else np.empty(0, np.int64)
        if len(ends):
            returns = _returns(chunk, ends, before)
            counts[0] += values
            lengths[0] += length
            _records(shape, counts, lengths - returns, starts)
            values, length = int(seen[-1] - seen[ends[-1]]), len(chunk) - int(ends[-1]) - 1
            started = int(lines[ends[-1]]) + 1
        else:
            values, length = values + int(seen[-1]), length + len(chunk)
        line, before = int(lines[-1] + newlines[-1]), int(chunk[-1])
    if length and not inside:
        _records(shape, np.array([values + 1]), np.array([length]), np.array([started]))
    shape.open_line = open_line if inside else 0
    return shape


def _chunks(text: bytes) -> Iterator[np.ndarray]:
    import numpy as np

    whole = np.frombuffer(text, np.uint8)
    for start in range(0, len(whole), CHUNK):
        yield whole[start : start + CHUNK]


def _within(chunk: np.ndarray, *, inside: bool) -> np.ndarray | None:
    """Whether each byte stands in a quotation (its opening mark does, its closing one doesn't); None: none does."""
    import numpy as np

    quotes = chunk == QUOTE
    if not (inside or quotes.any()):
        return None
    parity: np.ndarray = (np.cumsum(quotes, dtype=np.uint8) + inside) & 1
    return parity.astype(bool)


def _returns(chunk: np.ndarray, ends: np.ndarray, before: int) -> np.ndarray:
    """Whether a carriage return stands before each end of a record."""
    import numpy as np

    last = chunk[ends - 1]
    if ends[0] == 0:
        last[0] = before
    return np.asarray(last == RETURN)


def _records(shape: Shape, counts: np.ndarray, lengths: np.ndarray, starts: np.ndarray) -> None:
    """Note whole records: values, bytes without the line's end, and first lines of each."""
    import numpy as np

    if not shape.width:
        shape.width = int(counts[0])
        counts, lengths, starts = counts[1:], lengths[1:], starts[1:]
    blank = (lengths == 0) & (shape.width > 1)
    shape.blank += (np.flatnonzero(blank) + shape.records).tolist()
    shape.records += len(counts)
    ragged = np.flatnonzero((counts != shape.width) & ~blank)
    if len(ragged):
        shape.ragged.add(len(ragged), int(starts[ragged[0]]), int(counts[ragged[0]]))
