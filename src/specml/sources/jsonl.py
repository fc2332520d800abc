"""JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from specml.kinds import FileSource, untold
from specml.reading import read_jsonl, unpacked

if TYPE_CHECKING:
    import polars as pl

    from specml.kinds import Tell


class Jsonl(FileSource):
    """JSON lines: one object a line, plain or packed by gzip; keys of objects within it are joined by dots."""

    type: Literal["jsonl"] = "jsonl"

    @override
    def read(self, folder: Path, texts: frozenset[str] = frozenset(), tell: Tell = untold) -> pl.DataFrame:
        content = unpacked(self.located(folder), self.path)
        return read_jsonl(content, self.path, texts, tell)
