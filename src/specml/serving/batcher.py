"""Rows of many requests in one call of the model.

Work-conserving: an idle model runs at once what waits; rows that arrive meanwhile form the next
batch, so batches grow with the load and nothing waits for a clock (unless ``max_wait`` is set).
Counted in rows, first in first out; a request larger than a batch is split.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from specml.serving.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from specml.serving.counters import Counters
    from specml.serving.request import Rows

    Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]

LOG = logging.getLogger("ray.serve")
"""Ray Serve's log: it goes to the replica's own file."""


@dataclass(eq=False)
class _Waiting:
    rows: Rows
    answer: asyncio.Future[dict[str, np.ndarray]]
    taken: int = 0
    """Rows that went into a batch."""
    done: int = 0
    """Rows that came out of one."""
    parts: list[dict[str, np.ndarray]] = field(default_factory=list)


@dataclass(frozen=True)
class _Part:
    """Rows ``start`` to ``stop`` of a request, in one batch."""

    of: _Waiting
    start: int
    stop: int

    def columns(self) -> dict[str, np.ndarray]:
        return {name: array[self.start : self.stop] for name, array in self.of.rows.columns.items()}


class Batcher:
    """Gathers rows and runs them, one batch at a time.

    Args:
        run: the model: outputs [n, …] by name for columns [n] by name. Called in ``executor``.
        executor: where it runs; the event loop goes on reading requests meanwhile.
        max_batch_size: most rows in one call.
        max_wait: seconds that an idle model waits for a full batch.
        max_queue: most rows waiting; one request alone may be larger.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        counters: Counters,
        *,
        max_batch_size: int,
        max_wait: float = 0.0,
        max_queue: int,
    ) -> None:
        self._run = run
        self._executor = executor
        self._counters = counters
        self._max_batch_size = max_batch_size
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._queue: deque[_Waiting] = deque()
        self._waiting_rows = 0
        self._seconds_per_row = 0.0
        self._full = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    @property
    def waiting_rows(self) -> int:
        """Rows that no batch has taken yet."""
        return self._waiting_rows

    async def submit(self, rows: Rows) -> dict[str, np.ndarray]:
        """The model's outputs for ``rows``, in their order.

        Raises:
            Refused: 429 when the queue is full, 422 when the model can't be run on these rows.
        """
        if self._waiting_rows and self._waiting_rows + rows.n > self._max_queue:
            seconds = max(1, math.ceil(self._waiting_rows * self._seconds_per_row))
            raise Refused(
                429,
                f"{self._waiting_rows} rows wait already; at most {self._max_queue} may. Try again in {seconds} s.",
                headers={"retry-after": str(seconds)},
            )
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._waiting_rows += rows.n
        if self._waiting_rows >= self._max_batch_size:
            self._full.set()
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run_all())
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            self._forget(waiting)
            raise

    def _forget(self, waiting: _Waiting) -> None:
        """Drop what no batch has taken of a request whose client has gone."""
        if waiting in self._queue:
            self._queue.remove(waiting)
            self._waiting_rows -= waiting.rows.n - waiting.taken

    async def _run_all(self) -> None:
        loop = asyncio.get_running_loop()
        if self._max_wait and self._waiting_rows < self._max_batch_size:
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._max_wait)
        while self._queue:
            batch = self._take()
            began = time.perf_counter()
            results: list[dict[str, np.ndarray] | Exception]
            try:
                results = await loop.run_in_executor(self._executor, self._outputs, batch)
            except RuntimeError:  # the executor is shut down: the replica is going
                results = [Refused(503, "the server is going down.")] * len(batch)
            seconds = time.perf_counter() - began
            size = sum(part.stop - part.start for part in batch)
            self._seconds_per_row = 0.8 * self._seconds_per_row + 0.2 * seconds / size
            self._counters.batch(size, len(batch), seconds)
            for part, result in zip(batch, results, strict=True):
                self._answer(part.of, part.stop - part.start, result)

    def _take(self) -> list[_Part]:
        batch: list[_Part] = []
        room = self._max_batch_size
        while self._queue and room:
            first = self._queue[0]
            size = min(room, first.rows.n - first.taken)
            batch.append(_Part(first, first.taken, first.taken + size))
            first.taken += size
            room -= size
            self._waiting_rows -= size
            if first.taken == first.rows.n:
                self._queue.popleft()
        return batch

    def _outputs(self, batch: list[_Part]) -> list[dict[str, np.ndarray] | Exception]:
        """What each part gets. Where the batch fails, each part is run by itself: one bad request fails alone."""
        try:
            outputs = self._run(_stacked([part.columns() for part in batch]))
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [result for part in batch for result in self._outputs([part])]
        results: list[dict[str, np.ndarray] | Exception] = []
        start = 0
        for part in batch:
            stop = start + part.stop - part.start
            results.append({name: array[start:stop] for name, array in outputs.items()})
            start = stop
        return results

    def _answer(self, waiting: _Waiting, rows: int, result: dict[str, np.ndarray] | Exception) -> None:
        if waiting.answer.done():
            return
        if isinstance(result, Exception):
            self._counters.failures += 1
            self._forget(waiting)
            if not isinstance(result, Refused):
                LOG.error("The model failed on a request of %s rows.", waiting.rows.n, exc_info=result)
                result = Refused(422, "the model can't be run on these rows.")
            waiting.answer.set_exception(result)
            return
        waiting.parts.append(result)
        waiting.done += rows
        if waiting.done == waiting.rows.n:
            waiting.answer.set_result(_stacked(waiting.parts))


def _stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
