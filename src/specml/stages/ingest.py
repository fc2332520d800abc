"""Read a source, as it is, into a table of the project's own."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from specml.files import write_atomic
from specml.plan import Stage
from specml.stages import guard

if TYPE_CHECKING:
    import polars as pl

    from specml.spec import Spec
    from specml.stages.work import Work

OUT = "artifacts/ingest/${key}.parquet"


def declare(spec: Spec) -> Stage:
    """One for each source; it runs again when a file of a source changes."""
    files = sorted({file for source in spec.data.sources.values() for file in source.files()})
    return Stage(
        name="ingest",
        summary="read the source",
        each="data.sources",
        keys=tuple(spec.data.sources),
        params=("data.sources.${key}", "data.columns"),
        deps=(guard.OUT, *files),
        outs=(OUT,),
    )


def work(work: Work) -> None:
    """Source → Parquet."""
    columns = work.spec.data.columns
    texts = {name for name, c in columns.items() if c.dtype == "category" or (c.role == "protected" and not c.bands)}
    table = work.spec.data.sources[work.key].read(work.folder, frozenset(texts))
    write_table(work, OUT, table)
    work.say(f"{table.height:,} rows × {table.width} columns")


def write_table(work: Work, relative: str, table: pl.DataFrame) -> None:
    """Write a table as Parquet: the same table, the same bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", statistics=False)
    write_atomic(work.path(relative), buffer.getvalue())
