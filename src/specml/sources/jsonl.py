"""JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.files import inside
from specml.kinds import Source, untold
from specml.reading import read_jsonl, unpacked
from specml.values import FilePath

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell


class Jsonl(Source):
    """JSON lines: one object a line, plain or packed by gzip; keys of objects within it are joined by dots."""

    type: Literal["jsonl"] = "jsonl"
    path: FilePath
    """The file, relative to the project folder."""
    allow_outside: bool = False
    """Whether the file may lie outside the project folder."""

    @override
    def files(self) -> tuple[str, ...]:
        return (self.path,)

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        content = unpacked(inside(folder, self.path, allow_outside=self.allow_outside), self.path)
        return read_jsonl(content, self.path, texts, tell)
