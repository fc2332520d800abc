"""How many values each record of a separated text has: what a fast parser would fill up or mistake is refused first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specml.errors import DataCheckFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

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


def refuse_misshapen(text: bytes | Path, separator: str, where: str) -> Shape:
    """Make sure that every record of a text, or a file of it, has as many values as its header.

    Raises:
        DataCheckFailed: some have another number, or there are NUL bytes or unpaired quotation marks; the line of the
            first and the count are told.
    """
    shape = _shape(_chunks(text), separator)
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


def _shape(chunks: Iterable[np.ndarray], separator: str) -> Shape:
    """Positions are looked at, not bytes: of line ends, separators and quotation marks there are far fewer."""
    import numpy as np

    shape, line, inside, open_line = Shape(), 1, False, 0
    before, values, length, started = NEWLINE, 0, 0, 1  # the byte before, and what is known of the record at hand
    for chunk in chunks:
        breaks, quotes, zeros = (np.flatnonzero(chunk == one) for one in (NEWLINE, QUOTE, 0))
        shape.zeros.add(len(zeros), _line(line, breaks, zeros))
        opening = quotes[int(inside) :: 2]
        previous = np.where(opening > 0, chunk[opening - 1], np.uint8(before))
        strays = opening[~np.isin(previous, (ord(separator), NEWLINE, QUOTE))]  # one after another is a doubled one
        shape.strays.add(len(strays), _line(line, breaks, strays))
        open_line = _line(line, breaks, opening[-1:]) or open_line
        ends = _outside(breaks, quotes, inside=inside)
        separators = _outside(np.flatnonzero(chunk == ord(separator)), quotes, inside=inside)
        seen = np.searchsorted(separators, ends)
        if len(ends):
            returns = np.where(ends > 0, chunk[ends - 1], np.uint8(before)) == RETURN
            counts, lengths = np.diff(seen, prepend=0) + 1, np.diff(ends, prepend=-1) - 1
            counts[0] += values
            lengths[0] += length
            after = line + np.searchsorted(breaks, ends) + 1  # the line that follows each
            _records(shape, counts, lengths - returns, np.concatenate(([started], after[:-1])))
            values, length, started = len(separators) - int(seen[-1]), len(chunk) - int(ends[-1]) - 1, int(after[-1])
        else:
            values, length = values + len(separators), length + len(chunk)
        inside, line, before = inside != len(quotes) % 2, line + len(breaks), int(chunk[-1])
    if length and not inside:
        _records(shape, np.array([values + 1]), np.array([length]), np.array([started]))
    shape.open_line = open_line if inside else 0
    return shape


def _chunks(text: bytes | Path) -> Iterator[np.ndarray]:
    import numpy as np

    if isinstance(text, bytes):
        whole = np.frombuffer(text, np.uint8)
        yield from (whole[start : start + CHUNK] for start in range(0, len(whole), CHUNK))
        return
    with text.open("rb") as file:
        while raw := file.read(CHUNK):
            yield np.frombuffer(raw, np.uint8)


def last_end(text: bytes) -> int:
    """How many bytes of a text that begins with a record its whole records have, ends of lines among them."""
    import numpy as np

    quoted = False
    last = 0
    for number, chunk in enumerate(_chunks(text)):
        breaks, quotes = np.flatnonzero(chunk == NEWLINE), np.flatnonzero(chunk == QUOTE)
        ends = _outside(breaks, quotes, inside=quoted)
        if len(ends):
            last = number * CHUNK + int(ends[-1]) + 1
        quoted = quoted != len(quotes) % 2
    return last


def _line(line: int, breaks: np.ndarray, places: np.ndarray) -> int:
    """The line of the first of ``places`` in a chunk that begins in ``line``; 0 where there is none."""
    return line + int(breaks.searchsorted(places[0])) if len(places) else 0


def _outside(places: np.ndarray, quotes: np.ndarray, *, inside: bool) -> np.ndarray:
    """Those of ``places`` that stand in no quotation; ``inside``: whether the chunk begins in one."""
    if not (inside or len(quotes)):
        return places
    kept: np.ndarray = places[(quotes.searchsorted(places) + inside) % 2 == 0]
    return kept


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
