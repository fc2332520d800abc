"""Large separated text: read a block of records after another, as if it had been read at once.

What is inferred is inferred of each block first, and of the file from that; then the blocks are read by it.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from specml.errors import DataCheckFailed
from specml.kinds import untold
from specml.reading.csv import BLANK, DASHES, Known, dash, likely_separator, read_csv
from specml.reading.inference import DATES, OR, SEVERAL, UNCLEAR, numbers
from specml.reading.shape import last_end, refuse_misshapen
from specml.reading.text import GZIP, MARKS, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from specml.kinds import Tell
    from specml.reading.csv import CsvText

LARGE = 1 << 28
"""Bytes of a file that is read in blocks."""
LOOSE = rb'[,\n"](?:[ +]|[Ii][Nn][Ff]|[Nn][Aa][Nn]|T[Rr]|F[Aa])'
"""Beginnings of values that polars reads as numbers or truths when it is told to, but infers to be texts."""
BLOCK = 1 << 26
"""Bytes of a block; reading it takes some times as much."""


def csv_batches(path: Path, how: CsvText, where: str, texts: frozenset[str], tell: Tell) -> Iterator[pl.DataFrame]:
    """A file of separated text, as ``read_csv`` reads it; a large one in batches.

    One that is packed, or not in UTF-8, is read at once.

    Raises:
        DataCheckFailed, NotEnoughData: as ``read_csv``.
    """
    if not (path.is_file() and path.stat().st_size > LARGE and _plain(path, how)):
        yield read_csv(unpacked(path, where), how, where, texts, tell)
        return
    with path.open("rb") as file:
        separator = how.separator or likely_separator(file.read(1 << 16))
    refuse_misshapen(path, separator, where)
    told = _Told(tell)
    if how.encoding is None:
        tell("encoding", "utf-8")
    if how.separator is None:
        tell("separator", separator)
    how = how.model_copy(update={"encoding": "utf-8", "separator": separator})
    columns = _looked_at(path, how, where, texts)
    told.inferred(columns)
    dates = {name: form for name, column in columns.items() if (form := column.date)}
    how = how.model_copy(update={"dates": {**how.dates, **dates}})
    words = texts | {name for name, column in columns.items() if column.text}
    types: dict[Any, Any] = {
        name: dtype
        for name, column in columns.items()
        if (dtype := column.dtype(marked=how.marked)) is not None and not (name in how.dates and name not in dates)
    }
    known = Known(
        {} if how.marked else _parsed(types), frozenset(name for name in columns if columns[name].without_dashes)
    )
    for block in _blocks(path):
        yield read_csv(block, how, where, words, told.more, known=known).cast(types)


def _looked_at(path: Path, how: CsvText, where: str, texts: frozenset[str]) -> dict[str, _Column]:
    """What all blocks say of each column."""
    columns: dict[str, _Column] = {}
    rows = 0
    for block in _blocks(path):
        try:
            table, found = _inferred(block, how, where, texts, columns)
        except DataCheckFailed as error:
            what = f"{error.what} It is said of a block of rows that begins with row {rows + 1:,}."
            raise DataCheckFailed(what, hint=error.hint, where=error.where) from None
        rows += table.height
        for values in table.get_columns():
            columns.setdefault(values.name, _Column()).add(values, found)
    dashed = frozenset(name for name in columns if columns[name].without_dashes)
    for block in _blocks(path) if dashed else ():  # ``007``, a number to the parser, is a code
        written = read_csv(block, how, where, texts | dashed, untold)
        for name in dashed:
            rest = written[name].filter(~dash(written[name])).drop_nulls()
            columns[name].words |= bool(len(rest)) and numbers(rest, how.decimal, how.thousands) is None
    return columns


def _parsed(types: dict[str, Any]) -> dict[str, Any]:
    """What the parser is told: it takes dates for texts."""
    return {name: dtype for name, dtype in types.items() if dtype is not None and not dtype.is_temporal()}


def _inferred(
    block: bytes, how: CsvText, where: str, texts: frozenset[str], columns: dict[str, _Column]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """A block, and what was inferred of it: tried as earlier blocks were read, which takes a third of the time."""
    found: dict[str, Any] = {}
    known = columns and not how.marked and all(column.settled for column in columns.values())
    if known and not re.search(LOOSE.replace(b",", re.escape((how.separator or ",").encode())), block):
        types = _parsed({name: column.dtype() for name, column in columns.items()})
        with contextlib.suppress(DataCheckFailed):
            return read_csv(block, how, where, texts, found.__setitem__, known=Known(types)), found
        found.clear()
    return read_csv(block, how, where, texts, found.__setitem__), found


@dataclass
class _Column:
    """What the blocks say of a column."""

    types: set[Any] = field(default_factory=set)
    """Of the blocks in which it has values."""
    dashed: bool = False
    """Whether dashes stand in some block among numbers, or alone."""
    padded: bool = False
    """Whether in some block numbers stand as no parser reads them: with spaces around them, or a plus."""
    words: bool = False
    """Whether in some block it is text that is neither dates nor, but for dashes, numbers."""
    formats: list[str] | None = None
    """Of dates, those that all blocks allow; None where none holds dates."""

    def add(self, values: pl.Series, found: dict[str, Any]) -> None:
        """Look at a block; ``found``: what was inferred of it."""
        import polars as pl

        name = values.name
        dashed = name in found.get(DASHES, {})
        only = values.dtype == pl.String and bool(dash(values.drop_nulls()).all())
        self.dashed |= dashed or (only and values.null_count() < len(values))
        if only or values.null_count() == len(values):
            return
        said = found.get(DATES, {}).get(name) or found.get(UNCLEAR, {}).get(name)
        self.types.add(values.dtype)
        if said:
            known = said.split(OR) if self.formats is None else self.formats
            self.formats = [form for form in known if form in said.split(OR)]
        if values.dtype == pl.String and not dashed and not said:
            padded = numbers(values.drop_nulls()) is not None
            self.padded |= padded
            self.words |= not padded

    @property
    def settled(self) -> bool:
        """Whether the parser need not find out what it holds."""
        return bool(self.types) and not self.dashed

    @property
    def without_dashes(self) -> bool:
        """Whether it holds numbers, and dashes among them are missing values."""
        return self.dashed and self.numeric

    @property
    def numeric(self) -> bool:
        """Whether all blocks hold numbers, some perhaps dashes among them."""
        import polars as pl

        kinds = {one for one in self.types if not ((self.dashed or self.padded) and one == pl.String)}
        return bool(self.types) and not self.words and self.formats is None and all(one.is_numeric() for one in kinds)

    @property
    def date(self) -> str:
        """The one format of all blocks; empty where there is none, or where one holds something else."""
        (only,) = self.formats if self.formats and len(self.formats) == 1 else ("",)
        zones = sum(one.is_temporal() for one in self.types)
        return "" if self._mixed or only == SEVERAL or zones > 1 else only

    @property
    def unclear(self) -> str:
        """The formats of dates of which day and month can't be told apart, or that there are several."""
        if self.formats is None or self.date or self._mixed:
            return ""
        return OR.join(self.formats) or SEVERAL

    @property
    def text(self) -> bool:
        """Whether it is to stay as it is written."""
        import polars as pl

        if self.date or (self.numeric and (self.dashed or not self.padded)):
            return False
        several = pl.String in self.types or len(self.types) > 1
        return several or self.dashed or self.formats is not None

    def dtype(self, *, marked: bool = False) -> Any:
        """What it is in all blocks; None where that needs no saying. ``marked``: numbers are parsed by their marks."""
        import polars as pl

        if self.text or not self.types:
            return pl.String
        if self.dashed and not marked:
            return None
        kinds = self.types - {pl.String}
        if all(one.is_integer() for one in kinds):
            return pl.Int128 if pl.Int128 in kinds else pl.Int64
        return pl.Float64 if len(kinds) > 1 else next(iter(kinds), None)

    @property
    def _mixed(self) -> bool:
        """Whether some block holds other things than dates."""
        import polars as pl

        other = any(one != pl.String and not one.is_temporal() for one in self.types)
        return other or self.words or self.padded or self.dashed


class _Told:
    """What is told of the whole file: once, or in sum."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._sums: dict[str, int] = {}
        self._dashes: dict[str, int] = {}

    def inferred(self, columns: dict[str, _Column]) -> None:
        """What the dates are."""
        for what, forms in (
            (DATES, {name: column.date for name, column in columns.items()}),
            (UNCLEAR, {name: column.unclear for name, column in columns.items()}),
        ):
            if found := {name: form for name, form in forms.items() if form}:
                self._tell(what, found)

    def more(self, what: str, found: Any) -> None:
        """What a block tells."""
        if what == DASHES:
            for name, count in found.items():
                self._dashes[name] = self._dashes.get(name, 0) + int(count.replace(",", ""))
            self._tell(what, {name: f"{count:,}" for name, count in self._dashes.items()})
        elif what == BLANK:
            self._sums[what] = self._sums.get(what, 0) + found
            self._tell(what, self._sums[what])
        elif what not in (DATES, UNCLEAR):
            self._tell(what, found)


def _plain(path: Path, how: CsvText) -> bool:
    """Whether it is UTF-8, unpacked, whose lines end as they do today."""
    if how.encoding is not None and codecs.lookup(how.encoding).name != "utf-8":
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        head = file.read(4096)
        if head.startswith((GZIP, *(mark for mark, _ in MARKS))) or b"\0" in head:
            return False
        file.seek(0)
        try:
            while raw := file.read(BLOCK):
                if len(raw) == BLOCK and b"\n" not in raw:
                    return False
                decoder.decode(raw)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _blocks(path: Path) -> Iterator[bytes]:
    """Whole records, each block with the header before it."""
    with path.open("rb") as file:
        header = b""
        left = b""
        while raw := file.read(BLOCK):
            left += raw
            end = last_end(left)
            if not end:
                continue
            if not header:
                header = _first_record(left)
                yield left[:end]
            else:
                yield header + left[:end]
            left = left[end:]
        if left:
            yield header + left


def _first_record(text: bytes) -> bytes:
    """The header, whose names may hold ends of lines in quotation marks."""
    end = text.index(b"\n") + 1
    while text[:end].count(b'"') % 2:
        end = text.index(b"\n", end) + 1
    return text[:end]
