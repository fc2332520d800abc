"""Comma- (or otherwise) separated text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.errors import DataCheckFailed
from specml.files import inside
from specml.kinds import Source
from specml.values import FilePath, Separator

if TYPE_CHECKING:
    import polars as pl


class Csv(Source):
    """A CSV file with a header line, in UTF-8."""

    type: Literal["csv"] = "csv"
    path: FilePath
    """The file, relative to the project folder."""
    separator: Separator = ","
    missing: tuple[str, ...] = ("", "NA", "NaN", "nan", "null", "NULL", "?")
    """Texts that stand for a missing value, in any column."""
    allow_outside: bool = False
    """Whether the file may lie outside the project folder."""

    @override
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset()) -> pl.DataFrame:
        import polars as pl

        path = inside(folder, self.path, allow_outside=self.allow_outside)
        try:
            self._refuse_twins(path)
            return pl.read_csv(
                path,
                schema_overrides=dict.fromkeys(texts, pl.String),
                separator=self.separator,
                null_values=list(self.missing),
                infer_schema_length=None,
                encoding="utf8",
                glob=False,
            )
        except FileNotFoundError:
            raise DataCheckFailed("there is no such file.", where=self.path) from None
        except pl.exceptions.PolarsError as error:
            raise DataCheckFailed(f"can't be read as CSV: {_without_values(error)}", where=self.path) from None

    def _refuse_twins(self, path: Path) -> None:
        """Two columns of one name: the second might be the target again, under a name made up for it."""
        from collections import Counter
        from csv import reader

        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = next(reader(file, delimiter=self.separator), [])
        twins = sorted(name for name, times in Counter(header).items() if times > 1 and name)
        if twins:
            raise DataCheckFailed(f"has more than one column called {', '.join(map(repr, twins))}.", where=self.path)


def _without_values(error: Exception) -> str:
    """What polars says, less the piece of the file that it quotes: nobody knows whom that tells about."""
    text = str(error).strip()
    found = re.match(r"could not parse `.*` as dtype `\w+` at column '(.*)' \(column number \d+\)", text, re.DOTALL)
    if found:
        return f"a value of the column {found.group(1)!r} can't be parsed; does a quotation mark lack its twin?"
    return re.sub(r"`.*`", "…", text, flags=re.DOTALL).splitlines()[0]
