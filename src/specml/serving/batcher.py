"""Rows of many requests in one call of the model.

Work-conserving: an idle model runs what has come in one turn of the event loop; rows that arrive while it runs form the
next batch, so batches grow with the load and nothing waits for a clock (unless ``max_wait`` is set). Where a batch is
short, the next full one is handed over before it ends: from then on it is as if it ran.
Counted in rows, first in first out; a request larger than a batch is split. What is predicted to wait for longer than
the objective is refused, and what has waited for too long is taken out.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from specml.serving.answer import Finite, finite
from specml.serving.pace import Pace
from specml.serving.refusal import Refused, unshown
from specml.serving.request import joined

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from specml.serving.counters import Counters
    from specml.serving.request import Rows

    Outputs = dict[str, np.ndarray]
    Run = Callable[[dict[str, np.ndarray]], Outputs]
    Done = Callable[[Outputs | Exception], None]

LOG = logging.getLogger("ray.serve")
"""Ray Serve's log: it goes to the replica's own file."""

INLINE = 0.0003
"""Seconds that a batch may keep the event loop; to hand it to a thread and back takes a third of that."""
BUSY = 4.0
"""How many times as long it may be where the machine is busy."""
SHORT = 0.02
"""Seconds of a full batch up to which the next one is handed over while it runs: the model need not wait then for the
event loop, which reads and writes meanwhile. Beyond, that wait counts for little, and the late can still be put off."""
REST = 0.0005
"""Seconds after which the event loop has had nothing to do."""
QUEUE_MOST = 65_536
"""Most rows that wait where the pace is to tell how many: their columns are memory."""
AIM = 0.6
"""Share of the objective that a prediction may take: when more is asked than can be answered, all are near to it,
predictions are off by a tenth or two, and what a request waits before it is read is not known here: in HAProxy, and for
a processor that all want."""
CARE = 1.5
"""How many times as long as predicted the calls ahead are held to take: others want the processor as well."""
LATE = 0.8
"""Share of the objective beyond which who waits is held to be late: the call that answers may take longer, too."""
FAIR = 0.25
"""Share of the objective that one call of the model may take: who comes meanwhile waits for all of it, and then for his
own."""


class Waiting:
    """Rows on their way through the model: of one request, or of several ``requests`` that came in one turn."""

    __slots__ = ("done", "out", "over", "parts", "requests", "rows", "seconds", "several", "since", "taken", "until")

    def __init__(
        self, rows: Rows, done: Done, since: float, until: float, seconds: float, *, requests: int = 1
    ) -> None:
        self.rows, self.done, self.since, self.until, self.seconds = rows, done, since, until, seconds
        self.requests, self.several = requests, requests > 1
        """``requests``: those of them that are still waited for."""
        self.taken = 0
        """Rows that went into a batch."""
        self.out = 0
        """Rows that came out of one."""
        self.parts: list[Outputs] = []
        self.over = False
        """Whether it was answered, or nobody wants the answer any more."""


class _Part:
    """Rows ``start`` to ``stop`` of a request, in one batch."""

    __slots__ = ("of", "start", "stop")

    def __init__(self, of: Waiting, start: int, stop: int) -> None:
        self.of, self.start, self.stop = of, start, stop

    @property
    def rows(self) -> Rows:
        return self.of.rows.part(self.start, self.stop)


class Batcher:
    """Gathers rows and runs them, one batch at a time, on the event loop that offers them.

    Args:
        run: the model: outputs [n, …] by name for columns [n] by name.
        executor: where a batch runs that takes longer than ``INLINE``; the event loop goes on reading meanwhile.
        pace: of ``run``; kept up to date.
        packed: the columns that ``run`` takes as one ``BLOCK``.
        inline: whether ``run`` may be called by the event loop, and not by ``executor`` alone.
        max_batch_size: most rows in one call.
        max_wait: seconds that an idle model waits for a full batch.
        max_queue: most rows waiting, one request alone may be larger; None: what can be run within the objective.
        slo: seconds, the objective: who would wait for longer is refused. None: nobody is for that.
    """

    def __init__(
        self,
        run: Run,
        executor: Executor,
        counters: Counters,
        *,
        pace: Pace | None = None,
        inline: bool = True,
        packed: tuple[str, ...] = (),
        max_batch_size: int,
        max_wait: float = 0.0,
        max_queue: int | None = None,
        slo: float | None = None,
    ) -> None:
        self._run = run
        self._executor = executor
        self._counters = counters
        self.pace = pace or Pace(fixed=1.0)
        self._inline = inline
        self._packed = packed
        self._max_batch_size = max_batch_size
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._slo = math.inf if slo is None else slo
        self._limited = 0.0
        """Since when that holds: who came before was promised otherwise."""
        self._queue: deque[Waiting] = deque()
        self._waiting_rows = 0
        self._running: deque[tuple[list[_Part], int]] = deque()
        """The batches in the executor, with their rows: one that runs, and one that is next."""
        self._ends = 0.0
        """When they are predicted to end."""
        self.round = Pace(self.pace.fixed, self.pace.per_row)
        """What a batch takes with all that is done for it: reading its requests, and writing their answers."""
        self._ended = 0.0
        """When the last batch had been answered."""
        self._turn = _Turn()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flushing: asyncio.Handle | None = None
        self._reaps = math.inf
        self._ease()
        self._reaping: asyncio.TimerHandle | None = None

    def limit(self, *, max_wait: float, max_queue: int | None, slo: float | None) -> None:
        """Go by these from now on; what waits already goes on as it was let in."""
        self._max_wait, self._max_queue = max_wait, max_queue
        self._slo = math.inf if slo is None else slo
        self._limited = time.perf_counter()
        self._ease()
        if self._flushing is not None and self._loop is not None:  # a batch that waits for more goes by it, too
            self._flushing.cancel()
            self._flushing = None
            self._schedule(self._loop)

    @property
    def waiting_rows(self) -> int:
        """Rows that no batch has taken yet."""
        return self._waiting_rows

    @property
    def room(self) -> int:
        """Rows that may come yet without being looked at one by one: those of one call, within the queue."""
        return self._easy - self._waiting_rows

    @property
    def max_queue(self) -> int:
        """Most rows that may wait now."""
        if self._max_queue is not None:
            return self._max_queue
        return int(max(self._max_batch_size, min(self.round.rows_within(self._slo), QUEUE_MOST)))

    def predicted(self, care: float = 1.0) -> float:
        """Seconds from when a row that was read now was sent until it would be answered; 0 where nothing else is.

        The calls for what waits are held to take ``care`` times as long as they have lately.
        """
        seconds = self._turn.unread()
        if self._waiting_rows or self._running:
            rows, most = self._waiting_rows + 1, self._most
            calls = math.ceil(rows / most)
            # Where there is more than one, who comes later fills up the last.
            seconds += care * self.round.seconds(rows if calls == 1 else calls * most, calls)
        if self._running:
            # Of a call that is overdue nothing is known but that: as much again is the best guess.
            seconds += abs(self._ends - time.perf_counter())
        return seconds

    def reading(self) -> None:
        """A request was read that will be offered at the end of this turn of the event loop."""
        self._turn.read()

    def refuse_late(self, more: float = 0.0) -> None:
        """Make sure that a request that was just read can be answered in time; ``more``: seconds that it waits first.

        Raises:
            Refused: 429, when it would wait for too long.
        """
        self._turn.read()
        if (wait := more + self.predicted(CARE)) > AIM * self._slo:
            what = f"an answer would take {wait:.2g} s or more; this server promises {self._slo:g} s."
            raise self._later(what, wait)

    def _later(self, what: str, wait: float) -> Refused:
        seconds = max(1, math.ceil(wait))
        return Refused(429, f"{what} Try again in {seconds} s.", headers={"retry-after": str(seconds)})

    def offer(
        self, rows: Rows, done: Done, seconds: float = math.inf, began: float | None = None, requests: int = 1
    ) -> Waiting:
        """Run ``rows``; ``done`` is told the outputs in their order, or why there are none.

        It is told within ``seconds`` of ``began``, or of now: 504 when the model has not come to them by then; 422 when
        it can't be run on them.

        Where the model fails on the rows of several ``requests``, ``done`` is told its error: each may be offered by
        itself.

        Raises:
            Refused: 429, when too many wait already.
        """
        waits = self._waiting_rows
        if waits and waits + rows.n > self._easy and waits + rows.n > self.max_queue:
            raise self._later(f"{waits} rows wait already; at most {self.max_queue} may.", self.predicted())
        now = time.perf_counter()
        waiting = Waiting(rows, done, now, (now if began is None else began) + seconds, seconds, requests=requests)
        self._queue.append(waiting)
        self._waiting_rows += rows.n
        loop = self._loop
        if loop is None or loop.is_closed():
            loop = asyncio.get_running_loop()
            self._loop, self._flushing, self._reaping = loop, None, None
        if seconds != math.inf:
            self._reap_at(loop, waiting.until)
        if not self._running:
            self._schedule(loop)
        elif self._ahead:
            self._flush()
        return waiting

    def at_once(self, rows: Rows, done: Done, since: float, requests: int = 1) -> bool:
        """As ``offer``, of all that was read in this turn of the event loop, where an idle model is brief about it.

        ``done`` is told before this returns. False: nothing was done; the rows are to be offered.
        ``since``: when it was begun to read them.
        """
        n = rows.n
        if self._queue or self._running or self._max_wait or n > self._most or not self._brief(n):
            return False
        began = time.perf_counter()
        result: Outputs | Exception
        try:
            outputs = self._run(joined([rows], self._packed))
            result = Finite(outputs) if finite(outputs) else outputs
        except Exception as error:
            result = error
        seconds = time.perf_counter() - began
        self.pace.seen(n, seconds)
        self._counters.batch(n, requests, seconds)
        self._counters.waited(0.0, requests)
        if isinstance(result, Refused):
            self._counters.failures += requests
        done(result)
        self._learn(n, since)
        self._turn.extend()
        return True

    async def submit(self, rows: Rows, *, seconds: float = math.inf) -> Outputs:
        """As ``offer``, to be waited for."""
        answer: asyncio.Future[Outputs | Exception] = asyncio.get_running_loop().create_future()

        def done(result: Outputs | Exception) -> None:
            if not answer.done():
                answer.set_result(result)

        waiting = self.offer(rows, done, seconds=seconds)
        try:
            result = await answer
        except asyncio.CancelledError:
            self.forget(waiting)
            raise
        if isinstance(result, Exception):
            raise result
        return result

    def leave(self, waiting: Waiting) -> None:
        """Who asked for (one of the requests in) these rows is gone."""
        waiting.requests -= 1
        if waiting.requests == 0:
            self.forget(waiting)

    def forget(self, waiting: Waiting) -> None:
        """Drop what no batch has taken of a request that nobody waits for any more; it is told nothing."""
        if waiting.over:
            return
        waiting.over = True
        if waiting.taken < waiting.rows.n:
            self._waiting_rows -= waiting.rows.n - waiting.taken
            self._queue.remove(waiting)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """See to it that a batch is run: of all that is read in this turn, or what comes within ``max_wait``."""
        if self._waiting_rows >= self._max_batch_size:  # a full one: at once
            if self._flushing is not None:
                self._flushing.cancel()
            self._flush()
        elif self._flushing is None:
            wait = self._max_wait
            self._flushing = loop.call_later(wait, self._flush) if wait else loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Run a batch, here or in the executor, and the next one after it."""
        self._flushing = None
        if self._running and not self._ahead:
            return
        batch, rows = self._take()
        if not batch:
            return
        loop = self._loop
        assert loop is not None
        if not self._running and self._brief(rows):
            self._finish(batch, rows, *self._timed(batch))
            self._turn.extend()
            return
        now = time.perf_counter()
        self._ends = max(now, self._ends if self._running else 0.0) + self.pace.seconds(rows)
        try:
            running = loop.run_in_executor(self._executor, self._timed, batch)
        except RuntimeError:  # the executor is shut down: the replica is going
            self._finish(batch, rows, [Refused(503, "the server is going down.")] * len(batch), now, 0.0)
            return
        self._running.append((batch, rows))
        running.add_done_callback(partial(self._ran, batch, rows))

    def _brief(self, rows: int) -> bool:
        """Whether so many rows are run by the event loop itself."""
        busy = min(self.pace.busy, BUSY)  # threads take longer then, too
        return self._inline and self.pace.seconds(rows) < INLINE * busy

    @property
    def _ahead(self) -> bool:
        """Whether another batch may be handed over while one runs."""
        return self._short and self._waiting_rows >= self._most and len(self._running) == 1

    def _timed(self, batch: list[_Part]) -> tuple[list[Outputs | Exception], float, float]:
        """What each part gets, when that began, and the seconds that it took."""
        began = time.perf_counter()
        return self._outputs(batch), began, time.perf_counter() - began

    def _ran(
        self,
        batch: list[_Part],
        rows: int,
        running: asyncio.Future[tuple[list[Outputs | Exception], float, float]],
    ) -> None:
        self._running.remove((batch, rows))
        if self._running:  # it began just now; what was predicted of the one before counts no more
            self._ends = time.perf_counter() + self.pace.seconds(self._running[0][1])
        if running.cancelled():
            results: list[Outputs | Exception] = [Refused(503, "the server is going down.")] * len(batch)
            began, seconds = time.perf_counter(), 0.0
        else:
            results, began, seconds = running.result()
            if not self._brief(min(self._waiting_rows, self._most)):
                self._flush()  # before the answers: they may be long
        self._finish(batch, rows, results, began, seconds)

    def _finish(
        self, batch: list[_Part], rows: int, results: list[Outputs | Exception], began: float, seconds: float
    ) -> None:
        if seconds:
            self.pace.seen(rows, seconds)
            self._counters.batch(rows, sum([part.of.requests for part in batch]), seconds)
        if self._queue and not self._running and self._flushing is None and self._loop is not None:
            self._flushing = self._loop.call_soon(self._flush)
        for part, result in zip(batch, results, strict=True):
            if part.start == 0:
                self._counters.waited(began - part.of.since, part.of.requests)
            self._answer(part, result)
        if seconds:
            # What it waited for on purpose is no work.
            self._learn(rows, min(batch[0].of.since + self._max_wait, began))
        else:
            self._ended = time.perf_counter()

    def _learn(self, rows: int, since: float) -> None:
        """A batch was answered, whose first request was there ``since``."""
        now = time.perf_counter()
        self.round.seen(rows, now - max(self._ended, since))
        self._ease()
        self._ended = now

    def _ease(self) -> None:
        """What was learnt of the pace, for the requests that come."""
        # No call takes more than its share of the objective.
        self._most = int(max(1, min(self._max_batch_size, self.pace.rows_within(FAIR * self._slo))))
        """Most rows of the next batch."""
        self._short = self.pace.seconds(self._most) < SHORT
        self._easy = min(self._most, self.max_queue)
        """Rows that need not be looked at: those of one call, which an idle model answers in time."""

    def _take(self) -> tuple[list[_Part], int]:
        """The next batch, and its rows."""
        batch: list[_Part] = []
        most = room = self._most
        queue = self._queue
        if self._waiting_rows > most:
            self._drop_late(most)
        while queue and room:
            first = queue[0]
            start, n = first.taken, first.rows.n
            stop = min(n, start + room)
            batch.append(_Part(first, start, stop))
            first.taken = stop
            room -= stop - start
            if stop == n:
                queue.popleft()
        self._waiting_rows -= most - room
        return batch, most - room

    def _drop_late(self, most: int) -> None:
        """While more waits than a call takes, who can't be answered in time any more makes room for who can."""
        now = time.perf_counter()
        begins = max(now, self._ends) if self._running else now
        since = begins + self.pace.seconds(most) - LATE * self._slo
        while self._waiting_rows > most and self._limited <= self._queue[0].since < since and self._queue[0].taken == 0:
            late = self._queue[0]
            self.forget(late)
            self._counters.expired += late.requests
            what = f"the rows have waited for {now - late.since:.2g} s; this server promises {self._slo:g} s."
            assert self._loop is not None
            self._loop.call_soon(late.done, self._later(what, self.predicted()))  # it may offer more rows at once

    def _outputs(self, batch: list[_Part]) -> list[Outputs | Exception]:
        """What each part gets. Where the batch fails, each part is run by itself: one bad request fails alone."""
        try:
            outputs = self._run(joined([part.rows for part in batch], self._packed))
        except Refused as refusal:  # by the server, not for the sake of any row
            return [refusal] * len(batch)
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [result for part in batch for result in self._outputs([part])]
        kind = Finite if finite(outputs) else dict
        if len(batch) == 1:
            return [kind(outputs)]
        results: list[Outputs | Exception] = []
        start = 0
        for part in batch:
            stop = start + part.stop - part.start
            results.append(kind((name, array[start:stop]) for name, array in outputs.items()))
            start = stop
        return results

    def _answer(self, part: _Part, result: Outputs | Exception) -> None:
        waiting = part.of
        if waiting.over:
            return
        if isinstance(result, Exception):
            if waiting.several and not isinstance(result, Refused):  # it may be the fault of one of them
                self.forget(waiting)
                waiting.done(result)
                return
            self._counters.failures += waiting.requests
            if not isinstance(result, Refused):
                LOG.error("The model failed on a request of %s rows.", waiting.rows.n, exc_info=unshown(result))
                result = Refused(422, "the model can't be run on these rows.")
            self.forget(waiting)
            waiting.done(result)
            return
        waiting.out += part.stop - part.start
        if waiting.out < waiting.rows.n:
            waiting.parts.append(result)
            return
        waiting.over = True
        waiting.done(_stacked([*waiting.parts, result]) if waiting.parts else result)

    # One timer, set only while something waits, sees to what has waited for too long.

    def _reap_at(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        if self._reaping is not None:
            if self._reaps <= when:
                return
            self._reaping.cancel()
        self._reaps = when
        self._reaping = loop.call_later(when - time.perf_counter(), self._reap)

    def _reap(self) -> None:
        self._reaping = None
        now = time.perf_counter()
        waiting = {id(part.of): part.of for batch, _ in self._running for part in batch}
        waiting |= {id(one): one for one in self._queue}
        for one in waiting.values():
            if one.until <= now and not one.over:
                self._counters.expired += one.requests
                self.forget(one)
                one.done(Refused(504, f"the model has not answered within {one.seconds:g} s."))
        left = [one.until for one in waiting.values() if not one.over]
        if left and self._loop is not None:
            self._reap_at(self._loop, min(left))


class _Turn:
    """A turn of the event loop, in which it reads what was sent meanwhile.

    What is read late in a turn has waited for all that was done before it, and perhaps since the turn before.
    """

    __slots__ = ("_before", "_began", "_ended", "_loop", "_reading")

    def __init__(self) -> None:
        self._began = self._ended = 0.0
        self._before = 0.0
        """Seconds of the turn before, where this one follows it without a rest."""
        self._reading = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def read(self) -> None:
        """A request was read."""
        if self._reading and self._loop is not None and not self._loop.is_closed():
            return
        now = time.perf_counter()
        self._before = self._ended - self._began if now - self._ended < REST else 0.0
        self._began, self._reading, self._loop = now, True, asyncio.get_running_loop()
        self._loop.call_soon(self.end)

    def end(self) -> None:
        """What was read is on its way."""
        self._ended, self._reading = time.perf_counter(), False

    def extend(self) -> None:
        """Something was done after it."""
        if not self._reading:
            self._ended = time.perf_counter()

    def unread(self) -> float:
        """For how long a request that is read now may have waited to be read."""
        return time.perf_counter() - self._began + self._before if self._reading else 0.0


def _stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
