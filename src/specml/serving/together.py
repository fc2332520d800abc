"""Requests that are read in one turn of the event loop: their rows are read, run and answered together.

Most of what a small request costs is the same for ten of them: so a busy replica answers more of them, and each gets
what it would get by itself. Where they are not alike, or something about one is unusual, each is read by itself.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from specml.serving.lean import Unusual
from specml.serving.refusal import Refused

if TYPE_CHECKING:
    from specml.serving.answering import Answering, Going
    from specml.serving.batcher import Batcher, Outputs
    from specml.serving.lean import Reader
    from specml.serving.request import Rows

SMALL = 8_192
"""Bytes of a body up to which what is the same for all requests counts for more than its rows."""
MOST = 64
"""Requests that are read together."""
MOST_BYTES = 65_536
"""Bytes of the bodies that are: to read them takes some milliseconds, in which nothing else is done."""


class Together:
    """The requests of one turn after another, of the route ``/predict`` with JSON in and out.

    Args:
        answering: answers each by itself, where that is better.
    """

    def __init__(self, answering: Answering, reads: Reader, batcher: Batcher) -> None:
        self._answering, self._reads, self._batcher = answering, reads, batcher
        self._gathered: list[tuple[Going, bytes]] = []

    def gather(self, going: Going, body: bytes) -> None:
        """Answer a request at the end of this turn."""
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._start)
            self._batcher.reading()
        self._gathered.append((going, body))

    def _start(self) -> None:
        gathered, self._gathered = self._gathered, []
        while gathered:
            some = gathered[: _together(gathered)]
            del gathered[: len(some)]
            try:
                self._begin([one for one in some if not one[0].over])
            except Exception as error:  # whatever it is, nobody waits for ever
                for going, _ in some:
                    self._answering.end(going, error)

    def _begin(self, gathered: list[tuple[Going, bytes]]) -> None:
        try:
            rows, counts = self._read([body for _, body in gathered])
        except Exception:  # each is told by itself, and why
            for going, body in gathered:
                self._answering.start(going, body)
            return
        self._offer([going for going, _ in gathered], rows, counts)

    def _read(self, bodies: list[bytes]) -> tuple[Rows, list[int]]:
        """The rows of all, and how many each has.

        Raises:
            Unusual: they are better read one by one.
            Refused: 429; none would be answered in time.
        """
        if self._batcher.room <= 0 or not bodies:
            raise Unusual
        self._batcher.refuse_late()
        return self._reads.together(bodies)

    def _offer(self, group: list[Going], rows: Rows, counts: list[int]) -> None:
        first, several = group[0], len(group)
        self._answering.counters.parse_seconds.add((time.perf_counter() - first.began) / several, several)
        if rows.n > self._batcher.room:
            self._one_by_one(group, rows, counts)
            return
        done = partial(self._answer, group, rows, counts)
        if self._batcher.at_once(rows, done, first.began, several):
            return
        waiting = self._batcher.offer(rows, done, first.seconds, first.began, several)
        for going in group:
            if not going.over:
                going.waiting = waiting

    def _one_by_one(self, group: list[Going], rows: Rows, counts: list[int]) -> None:
        start = 0
        for going, n in zip(group, counts, strict=True):
            self._answering.offer_rows(going, rows.part(start, start + n))
            start += n

    def _answer(self, group: list[Going], rows: Rows, counts: list[int], result: Outputs | Exception) -> None:
        if isinstance(result, Refused):
            for going in group:
                self._answering.end(going, result)
        elif isinstance(result, Exception):  # the model may fail on one of them: the others have answers
            self._one_by_one(group, rows, counts)
        else:
            try:
                self._answering.end_all(group, rows, counts, result)
            except Exception as error:  # others of the same batch wait for theirs
                for going in group:
                    self._answering.end(going, error)


def _together(gathered: list[tuple[Going, bytes]]) -> int:
    """How many of the first are read together; at least one."""
    room = MOST_BYTES
    for place, (_, body) in enumerate(gathered[:MOST]):
        room -= len(body)
        if room < 0:
            return max(1, place)
    return min(MOST, len(gathered))
