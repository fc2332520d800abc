"""What was asked and answered, kept as Parquet off the request's path.

A request leaves its rows in a bounded queue and goes on; one thread writes them. It rewrites its open segment, whole
or not at all, every few seconds: a segment only ever grows, and a killed replica leaves whole files and loses the
last seconds. When the writer can't keep up, rows are dropped, counted and told in the log; a request never waits.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import logging
import math
import os
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from specml.data import FIRST, LAST, MISSING
from specml.files import write_atomic
from specml.serving.request import joined

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from specml.bundle import Contract
    from specml.data import Column
    from specml.serving.request import Rows

LOG = logging.getLogger("ray.serve")

ID = re.compile(r"[A-Za-z0-9._:/@+=-]{1,100}")
"""A request's id that is taken from its caller."""

NAME = "%Y%m%dT%H%M%S%fZ"
"""When a segment was begun, as its name says."""

SEGMENT = re.compile(r"\d{8}T\d{12}Z-")
"""How the name of a segment begins."""

FLUSH = 5.0
"""Seconds between two writes of a segment that has grown."""
SEGMENT_ROWS = 10_000
"""Rows from which a segment is closed."""
SEGMENT_SECONDS = 3600.0
"""Age at which a segment is closed."""
SWEEP = 60.0
"""Seconds between two looks for segments that are older than the retention."""
AT_ONCE = 200
"""Rows that become a table at once, in some 3 ms; then the requests have their turn."""
QUEUE_ROWS = 50_000
"""Most rows that wait for the writer."""


def request_id(*wanted: str | None) -> str:
    """The first of a caller's ids of a request that is well-formed, else a new one."""
    for one in wanted:
        if one is not None and ID.fullmatch(one):
            return one
    return os.urandom(16).hex()


def row_ids(request: str, rows: int) -> list[str]:
    """What the rows of a request are called: by these ids late labels find them."""
    return [f"{request}-{index}" for index in range(rows)]


@dataclass(frozen=True)
class _Taken:
    requests: list[tuple[str, int]]
    """What they are called, and how many of the rows each has."""
    at: datetime
    rows: Rows
    outputs: dict[str, np.ndarray]

    def apart(self) -> list[_Taken]:
        """The same, request by request."""
        parts, start = [], 0
        for request, n in self.requests:
            outputs = {name: array[start : start + n] for name, array in self.outputs.items()}
            parts.append(_Taken([(request, n)], self.at, self.rows.part(start, start + n), outputs))
            start += n
        return parts


class Capture:
    """Writes what it is given to segments in ``folder``.

    Args:
        share: of the requests; a hash of the id decides.
        replica: goes into the names of the segments, so that no two replicas write the same.
        flush: seconds between two writes.
        queue_rows: most rows that wait.
        retention: seconds after which segments in ``folder``, and beside it those of other bundles, are deleted.
    """

    def __init__(
        self,
        folder: Path,
        contract: Contract,
        bundle: str,
        *,
        share: float = 1.0,
        replica: str = "local",
        flush: float = FLUSH,
        queue_rows: int = QUEUE_ROWS,
        retention: float | None = None,
    ) -> None:
        self.rows = 0
        """Rows written."""
        self.dropped = 0
        """Rows that were not kept."""
        self._folder, self._contract, self._bundle = folder, contract, bundle
        self._share, self._flush, self._most = share, flush, queue_rows
        self._replica = re.sub(r"[^A-Za-z0-9]", "", replica)[-16:]
        self._retention = retention
        # A segment goes as a whole, when its first row is too old: it must not be open for most of that time.
        self._longest = min(SEGMENT_SECONDS, (retention or math.inf) / 10)
        self._swept = -math.inf
        self._waiting: deque[_Taken] = deque()
        self._waiting_rows = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._segment: Path | None = None
        self._begun = 0.0
        self._frame: pl.DataFrame | None = None
        self._unwritten = 0
        # Other users of the machine have no business with what people asked.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread = threading.Thread(target=self._write, name="capture", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def offer(self, request: str, rows: Rows, outputs: dict[str, np.ndarray]) -> None:
        """Keep the rows of an answered request, unless the share or a full queue says no; never waits."""
        self.offer_all([(request, rows.n)], rows, outputs)

    def offer_all(self, requests: list[tuple[str, int]], rows: Rows, outputs: dict[str, np.ndarray]) -> None:
        """The same of several requests: what they are called, and how many of the rows each has."""
        taken = _Taken(requests, datetime.now(UTC), rows, outputs)
        if self._share == 1:
            self._keep(taken)
            return
        for part in taken.apart() if len(requests) > 1 else [taken]:
            if _place(part.requests[0][0]) < self._share:
                self._keep(part)

    def _keep(self, taken: _Taken) -> None:
        with self._lock:
            if self._closing.is_set() or self._waiting_rows + taken.rows.n > self._most:
                self.dropped += taken.rows.n
                return
            self._waiting_rows += taken.rows.n
            self._waiting.append(taken)

    def close(self) -> None:
        """Write what waits, and take no more."""
        self._closing.set()
        self._thread.join(timeout=30)

    def _write(self) -> None:
        # The first import takes half a second: better before the first request than inside it.
        import polars  # noqa: F401

        told, last = 0, False
        while not last:
            last = self._closing.wait(self._flush)
            try:
                self._sweep()
                self._take()
            except OSError as error:
                LOG.warning("Captured rows can't be written to %s: %s. They wait.", self._folder, error.strerror)
            except Exception as error:  # its text may quote a value
                LOG.error(  # noqa: TRY400
                    "Captured rows could not be written (%s); %d are dropped.", type(error).__name__, self._unwritten
                )
                self._drop()
                self._frame = None
            if self.dropped > told:
                LOG.warning("%d rows were not captured: more came than could be written.", self.dropped - told)
                told = self.dropped
        if self._unwritten:
            LOG.warning("%d captured rows could not be written before the end.", self._unwritten)
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            self.dropped += self._unwritten
        self._unwritten = 0

    def _take(self) -> None:
        """Write what has grown; then what waits, segment by segment."""
        self._save()
        while self._waiting:
            if self._full():
                self._frame = None
            while self._waiting and not self._full():
                self._grow(self._next())
                time.sleep(0.002)
            self._save()

    def _sweep(self) -> None:
        """Delete what is older than the retention, now and then."""
        if self._retention is None or time.monotonic() - self._swept < min(SWEEP, self._retention / 10):
            return
        self._swept = time.monotonic()
        if self._full() and not self._unwritten:
            self._frame = None  # or what was deleted would be written again with the next rows
        gone = forget(self._folder.parent, self._retention)
        if gone:
            LOG.info("%d segments of captured rows were older than the retention and are deleted.", gone)

    def _full(self) -> bool:
        return self._frame is not None and (
            len(self._frame) >= SEGMENT_ROWS or time.monotonic() - self._begun > self._longest
        )

    def _next(self) -> list[_Taken]:
        """Some requests: few enough that turning them into a table keeps no request waiting for the interpreter."""
        parts: list[_Taken] = []
        rows = 0
        with self._lock:
            while self._waiting and rows < AT_ONCE:
                parts.append(self._waiting.popleft())
                rows += parts[-1].rows.n
            self._waiting_rows -= rows
        return parts

    def _grow(self, parts: list[_Taken]) -> None:
        import polars as pl

        try:
            table = self._table(parts)
        except Exception as error:  # its text may quote a value
            if len(parts) > 1 or len(parts[0].requests) > 1:  # one request's fault is no other's
                for part in parts if len(parts) > 1 else parts[0].apart():
                    self._grow([part])
                return
            LOG.error("A request can't be captured (%s).", type(error).__name__)  # noqa: TRY400
            with self._lock:
                self.dropped += parts[0].rows.n
            return
        self._unwritten += table.height
        if self._frame is None:
            self._begun = time.monotonic()
            self._segment = self._folder / f"{parts[0].at:{NAME}}-{self._replica}.parquet"
            self._frame = table
        else:
            self._frame = pl.concat([self._frame, table])

    def _save(self) -> None:
        if not self._unwritten or self._frame is None or self._segment is None:
            return
        content = io.BytesIO()
        self._frame = self._frame.rechunk()
        self._frame.write_parquet(content, compression="lz4")
        write_atomic(self._segment, content.getvalue())
        self.rows += self._unwritten
        self._unwritten = 0

    def _table(self, parts: list[_Taken]) -> pl.DataFrame:
        """The rows of some requests: ``id``, ``time``, ``bundle``, and as structs ``inputs`` and ``outputs``."""
        import polars as pl

        columns = joined([part.rows for part in parts])
        sent = {str(place): columns[one.name].ravel() for place, one in enumerate(self._contract.inputs)}
        texts = {name: values.tolist() for name, values in sent.items() if values.dtype == object}
        types = {name: pl.String if name in texts else pl.Float64 for name in sent}
        # One query for all of them, by their places: polars takes some names for patterns.
        inputs = pl.DataFrame(sent | texts, schema=types).select(
            [_said(column, pl.col(str(place))).alias(column.name) for place, column in enumerate(self._contract.inputs)]
        )
        answers = {name: np.concatenate([part.outputs[name] for part in parts]) for name in self._contract.outputs()}
        if self._contract.task == "regression":
            outputs = [pl.Series(name, one.ravel(), dtype=pl.Float32) for name, one in answers.items()]
        else:
            probabilities = pl.Series("probabilities", answers["probabilities"].astype(np.float32))
            outputs = [
                pl.Series("label", [one or None for one in answers["label"].ravel().tolist()], dtype=pl.String),
                probabilities.cast(pl.List(pl.Float32)),
            ]
        stamps = [np.datetime64(part.at.replace(tzinfo=None), "us") for part in parts]
        rows = [part.rows.n for part in parts]
        return pl.DataFrame(
            [
                pl.Series("id", [name for part in parts for request in part.requests for name in row_ids(*request)]),
                pl.Series("time", np.repeat(stamps, rows)).dt.replace_time_zone("UTC"),
                pl.Series("bundle", [self._bundle]).new_from_index(0, sum(rows)),
                inputs.to_struct("inputs"),
                pl.DataFrame(outputs).to_struct("outputs"),
            ]
        )


def _said(column: Column, values: pl.Expr) -> pl.Expr:
    """The values of an input of the graph as they were asked about; null where one is missing."""
    import polars as pl

    if column.tensor == "string":
        return values.replace(MISSING if column.kind == "categorical" else "", None)
    values = values.fill_nan(None)
    if column.kind == "datetime":
        micro = (values.clip(FIRST, LAST) * 1e6).round().cast(pl.Int64, strict=False)
        return micro.cast(pl.Datetime("us", "UTC"))
    return values.cast(pl.Boolean) if column.kind == "boolean" else values


def begun(path: Path) -> float:
    """When a segment was begun, as its name says; when it was written, where the name says nothing."""
    with contextlib.suppress(ValueError):
        return datetime.strptime(path.stem.partition("-")[0], NAME).replace(tzinfo=UTC).timestamp()
    return path.stat().st_mtime


def forget(captures: Path, retention: float) -> int:
    """Delete what was begun over ``retention`` seconds ago: segments of all bundles, labels that wait; how many."""
    oldest = time.time() - retention
    kept = [*captures.glob("*/*.parquet"), *captures.parent.glob("labels/*")]  # labels: see serving.feedback
    old = [path for path in kept if SEGMENT.match(path.name) and begun(path) < oldest]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _place(request: str) -> float:
    """Where an id stands between 0 and 1: the same everywhere."""
    return int.from_bytes(hashlib.blake2b(request.encode(), digest_size=8).digest()) / 2**64
