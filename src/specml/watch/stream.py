"""Captured rows and late labels as they lie on disk: folders of Parquet segments that only ever grow.

A window takes the next rows of a folder; its record says which (segment, from, to). So the records are the only
memory of what was judged: whenever ``specml watch`` is stopped, the next one goes on where the last record ends.
"""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specml import files
from specml.bundle import Bundle, open_bundle
from specml.errors import DataCheckFailed, SpecmlError
from specml.files import canonical_json, digest, locked
from specml.releases import FOLDER
from specml.serving import feedback
from specml.serving.capture import begun
from specml.watch.judge import RECORDS

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

CAPTURES = ".specml/captures"
FEEDBACK = ".specml/feedback"
"""In both, a folder for each bundle, called by the first 12 digits of its digest."""
INBOX = f".specml/{feedback.INBOX}"
"""Labels that were brought to the server, in files of JSON lines, until ``specml watch`` keeps them."""
LOCK = f"{RECORDS}.lock"

Taken = dict[str, tuple[int, int]]
"""Rows of some segments: from, to."""


@dataclass(frozen=True)
class Next:
    """Rows that were not judged yet."""

    table: pl.DataFrame
    taken: Taken

    def name(self, bundle: str) -> str:
        """The same rows have the same name."""
        return digest(canonical_json([bundle, self.taken])).removeprefix("sha256:")[:12]


def alone(project: Path) -> contextlib.AbstractContextManager[None]:
    """Keep whoever else watches, or brings labels, in the same project waiting."""
    return locked(project / LOCK)


def bundles(project: Path, kind: str) -> Iterator[tuple[Path, Bundle | None]]:
    """The folders of captures or feedback, each with its bundle; None when the project no longer has that."""
    known: dict[str, Path] = {}
    for manifest in [
        project / "artifacts/bundle/manifest.json",
        *project.glob(f"{FOLDER}/[0-9a-f]*/bundle/manifest.json"),
    ]:
        if manifest.exists():
            known.setdefault(digest(manifest)[7:19], manifest.parent)
    for folder in sorted((project / kind).glob("*/")):
        yield folder, open_bundle(known[folder.name]) if folder.name in known else None


def windows(folder: Path, project: Path, size: int) -> Iterator[Next]:
    """Windows of ``size`` rows that were not judged, in the order of the segments; what is left over waits."""
    import polars as pl

    used = _used(folder, project)
    tables: list[pl.DataFrame] = []
    taken: Taken = {}
    have = 0
    for segment in sorted(folder.glob("*.parquet")):
        table, start = read(segment), used.get(segment.name, 0)
        while start < table.height:
            part = table[start : start + size - have]
            tables.append(part)
            taken[segment.name] = (start, start + part.height)
            start, have = start + part.height, have + part.height
            if have == size:
                yield Next(pl.concat(tables), taken)
                tables, taken, have = [], {}, 0


def waiting(folder: Path, project: Path) -> int:
    """Rows that were not judged."""
    used = _used(folder, project)
    return sum(read(one, "id").height - used.get(one.name, 0) for one in folder.glob("*.parquet"))


def read(segment: Path, *columns: str) -> pl.DataFrame:
    """The rows of a segment, of all columns or some.

    Raises:
        DataCheckFailed: it is none.
    """
    import polars as pl

    try:
        # At once: polars opens a path several times, and a server may put a longer segment there between.
        return pl.read_parquet(io.BytesIO(segment.read_bytes()), columns=list(columns) or None)
    except pl.exceptions.PolarsError:
        raise DataCheckFailed(
            "is no Parquet file: it was altered.", where=str(segment), hint="Delete it: its rows are lost."
        ) from None


def sweep(project: Path, retention: float) -> int:
    """Delete segments and profiles that were begun more than ``retention`` seconds ago; returns how many."""
    oldest = time.time() - retention
    gone = 0
    for path in [
        *project.glob(f"{CAPTURES}/*/*.parquet"),
        *project.glob(f"{FEEDBACK}/*/*.parquet"),
        *project.glob(f"{INBOX}/*Z-*"),
        *project.glob(f"{RECORDS}/*.profile"),
    ]:
        if begun(path) < oldest:
            path.unlink(missing_ok=True)
            gone += 1
    for name in (CAPTURES, FEEDBACK, INBOX, RECORDS):
        files.sweep(project / name)
    return gone


def _used(folder: Path, project: Path) -> dict[str, int]:
    """How many rows of each segment the records say were judged."""
    used: dict[str, int] = {}
    place = folder.relative_to(project).as_posix()
    for path in (project / RECORDS).glob("*.json"):
        try:
            origin = json.loads(path.read_bytes())["origin"]
            if origin.get("folder") == place:
                for name, (_, stop) in origin["segments"].items():
                    used[name] = max(used.get(name, 0), stop)
        except (ValueError, KeyError, TypeError, AttributeError):
            hint = "Delete it: its rows are judged again."
            raise SpecmlError("is no record of a window.", where=str(path), hint=hint) from None
    return used
