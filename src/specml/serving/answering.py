"""A request for the model, from its body to its answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from specml.data import CATEGORIES_KEPT, MISSING
from specml.serving import cache as caches
from specml.serving import tabular
from specml.serving.answer import Finite, finite
from specml.serving.refusal import Refused, unshown, without_detail
from specml.serving.routes import JSON, REQUEST_ID, Reply, media_type, refused
from specml.serving.together import SMALL, Together

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from specml.bundle import Contract
    from specml.serving.access import Access
    from specml.serving.batcher import Batcher, Outputs, Waiting
    from specml.serving.cache import Cache
    from specml.serving.capture import Capture
    from specml.serving.counters import Counters
    from specml.serving.forms import Forms
    from specml.serving.request import Rows
    from specml.serving.routes import Asked, Route

LOG = logging.getLogger("ray.serve")

TIMEOUT = "x-request-timeout-seconds"
"""The header in which a caller may say that it waits for less than ``serving.timeout``; Ray Serve's name for it."""

LARGE = 262_144
"""Bytes from which a body is read beside the event loop; smaller ones take a millisecond or two."""


class Going:
    """A request for the model on its way."""

    __slots__ = ("asked", "began", "done", "headers", "key", "over", "route", "seconds", "waiting")

    def __init__(self, route: Route, headers: Mapping[str, str], seconds: float, done: Callable[[Reply], None]) -> None:
        self.route, self.headers, self.done = route, headers, done
        self.seconds = seconds
        """After which nobody waits for it any more."""
        self.began = time.perf_counter()
        self.asked: Asked | None = None
        self.waiting: Waiting | None = None
        self.key: Hashable = None
        """By which its answer is to be kept."""
        self.over = False
        """Whether it was answered, or its client is gone."""


class Answering:
    """What becomes of the requests for the model.

    Args:
        timeout: seconds after which a request that the model has not come to is refused.
        access: whose rows are counted.
        error_detail: whether errors say what is wrong; else only what kind of error it is.
        cache: answers in the place of the model what it was asked before; nothing does without it.
        capture: keeps what is asked and answered; nothing is kept without it.
    """

    def __init__(
        self,
        contract: Contract,
        forms: Forms,
        batcher: Batcher,
        counters: Counters,
        *,
        timeout: float,
        access: Access,
        error_detail: bool,
        cache: Cache | None,
        capture: Capture | None,
    ) -> None:
        self._forms, self._batcher, self.counters = forms, batcher, counters
        self.timeout, self._access, self._error_detail = timeout, access, error_detail
        self._cache, self._capture = cache, capture
        self._large = 0 if contract.image is not None else LARGE  # to unpack an image takes long, however small it is
        self._seen = {
            column.name: {*column.categories, MISSING}
            for column in contract.inputs
            if 0 < len(column.categories) < CATEGORIES_KEPT  # a longer list is cut
        }
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reader")
        self._aside: deque[Going] = deque()
        """Whose bodies are read by it, or wait to be."""
        self._together = Together(self, forms.reads, batcher)
        self.ongoing = 0
        """Requests that are not answered yet."""

    def close(self) -> None:
        """Read no more large bodies."""
        self._reader.shutdown(wait=False)

    def begin(self, route: Route, body: bytes, headers: Mapping[str, str], done: Callable[[Reply], None]) -> Going:
        """Answer an admitted request for the model: ``done`` is told the reply, once, perhaps before this returns.

        Never raises for what a client sent; ``leave`` says that the client is gone.
        """
        self.ongoing += 1
        going = Going(route, headers, _shorter(self.timeout, headers.get(TIMEOUT)), done)
        self.start(going, body)
        return going

    def begin_soon(self, route: Route, body: bytes, headers: Mapping[str, str], done: Callable[[Reply], None]) -> Going:
        """As ``begin``, of a request that ``joins``: with the others that are read in this turn of the event loop."""
        if self._access.counts_rows:  # those of the others count before this one is let in
            return self.begin(route, body, headers, done)
        self.ongoing += 1
        going = Going(route, headers, self.timeout, done)
        self._together.gather(going, body)
        return going

    def joins(self, route: Route, headers: Mapping[str, str], length: int) -> bool:
        """Whether a request with such a head, and so many bytes, may be answered together with others."""
        return (
            length <= SMALL
            and route.name == "/predict"
            and self._cache is None
            and self._forms.reads.joins
            and media_type(headers) == tabular.answered_as(headers.get("accept")) == tabular.JSON
            and TIMEOUT not in headers
        )

    def start(self, going: Going, body: bytes) -> None:
        """Read a request for the model, and offer it to the batcher."""
        headers, read = going.headers, going.route.read
        assert read is not None
        try:
            aside = len(body) >= self._large
            # At least as long as the first of those that wait to be read has waited.
            waits = time.perf_counter() - self._aside[0].began if aside and self._aside else 0.0
            self._batcher.refuse_late(waits)
            if aside:
                self._read_aside(going, body, headers)
            else:
                self.offer(going, read(body, headers))
        except Exception as error:
            self.end(going, error)

    def leave(self, going: Going) -> None:
        """The client is gone: the model need not come to what no batch has taken."""
        if not going.over:
            going.over = True
            self.ongoing -= 1
            self.counters.gone += 1
            if going.waiting is not None:
                self._batcher.leave(going.waiting)
                going.waiting = None

    def _read_aside(self, going: Going, body: bytes, headers: Mapping[str, str]) -> None:
        """Read a large body, or images, while other requests go on."""
        read = going.route.read
        assert read is not None
        loop = asyncio.get_running_loop()

        def wanted() -> Asked:
            if going.over or time.perf_counter() - going.began > going.seconds:
                raise Refused(504, f"the body was not read within {going.seconds:g} s.")
            return read(body, headers)

        try:
            reading = loop.run_in_executor(self._reader, wanted)
        except RuntimeError:  # the executor is shut down: the replica is going
            raise Refused(503, "the server is going down.") from None
        self._aside.append(going)
        reading.add_done_callback(partial(self._was_read, going))

    def _was_read(self, going: Going, reading: asyncio.Future[Asked]) -> None:
        self._aside.popleft()  # one thread reads: first come, first read
        if reading.cancelled():
            self.end(going, Refused(503, "the server is going down."))
        elif (wrong := reading.exception()) is not None:  # raised here, it would be in a ring with the body
            self.end(going, wrong)
        else:
            try:
                self.offer(going, reading.result())
            except Exception as error:
                self.end(going, error)

    def offer(self, going: Going, asked: Asked) -> None:
        """Have the model answer a request that was read.

        Raises:
            Refused: 429; too much waits already.
        """
        if going.over:
            return
        self.counters.parse_seconds.add(time.perf_counter() - going.began)
        self._offer(going, asked)

    def offer_rows(self, going: Going, rows: Rows) -> None:
        """Have the model answer a request for ``/predict`` whose rows were read with those of others."""
        if going.over:
            return
        try:
            self._batcher.refuse_late()
            self._offer(going, self._forms.asked(rows, going.headers))
        except Exception as error:
            self.end(going, error)

    def _offer(self, going: Going, asked: Asked) -> None:
        going.asked = asked
        self._access.rows(going.headers, asked.rows.n)
        if self._cache is not None:
            going.key = caches.key(asked.rows)
            if (known := self._cache.get(going.key)) is not None:
                going.key = None
                self.end(going, known)
                return
        waiting = self._batcher.offer(asked.rows, partial(self.end, going), going.seconds, going.began)
        if not going.over:
            going.waiting = waiting

    def end(self, going: Going, result: Outputs | BaseException) -> None:
        """Answer: with the model's outputs, or with what went wrong."""
        if going.over:
            return
        began = time.perf_counter()
        try:
            if isinstance(result, BaseException):
                reply = self.failed(going.route, result)
            else:
                reply = self._written(going, result)
        except Exception as error:
            reply = self.failed(going.route, error)
        self.counters.write_seconds.add(time.perf_counter() - began)
        self._reply(going, reply)

    def end_all(self, group: list[Going], rows: Rows, counts: list[int], outputs: Outputs) -> None:
        """Answer requests for ``/predict``, each of which has so many of the ``rows``, and of the outputs."""
        if any(going.over for going in group) or not (type(outputs) is Finite or finite(outputs)):
            self._end_each(group, rows, counts, outputs)
            return
        began, several = time.perf_counter(), len(group)
        requests = [(going.headers[REQUEST_ID], n) for going, n in zip(group, counts, strict=True)]
        bodies = list(self._forms.bodies(requests, outputs))
        self._count_unseen(rows)
        if self._capture is not None:
            self._capture.offer_all(requests, rows, outputs)
        self.counters.write_seconds.add((time.perf_counter() - began) / several, several)
        for going, body, n in zip(group, bodies, counts, strict=True):
            self._reply(going, Reply(200, body, JSON, n))

    def _end_each(self, group: list[Going], rows: Rows, counts: list[int], outputs: Outputs) -> None:
        start = 0
        for going, n in zip(group, counts, strict=True):
            if not going.over:
                going.asked = self._forms.asked(rows.part(start, start + n), going.headers)
                self.end(going, {name: array[start : start + n] for name, array in outputs.items()})
            start += n

    def _reply(self, going: Going, reply: Reply) -> None:
        going.over, going.waiting, going.asked = True, None, None  # these may hold what is others', too
        self.ongoing -= 1
        self.counters.request(going.route.name, reply.status, time.perf_counter() - going.began, reply.rows)
        try:
            going.done(reply)
        except Exception:  # others of the same batch wait for theirs
            LOG.exception("An answer could not be sent.")

    def _written(self, going: Going, outputs: Outputs) -> Reply:
        asked = going.asked
        assert asked is not None
        body, headers = asked.write(outputs)
        if self._cache is not None and going.key is not None:
            self._cache.put(going.key, asked.rows.n, outputs)
        self._count_unseen(asked.rows)
        if self._capture is not None:
            self._capture.offer(asked.identity, asked.rows, outputs)
        return Reply(200, body, headers, asked.rows.n)

    def _count_unseen(self, rows: Rows) -> None:
        """What no training row had is counted."""
        for name, seen in self._seen.items():
            if unseen := rows.n - sum(map(seen.__contains__, rows.columns[name])):
                self.counters.unseen[name] += unseen

    def failed(self, route: Route, error: BaseException) -> Reply:
        """The answer to a request that went wrong."""
        if isinstance(error, Refused):
            return self.told(error)
        LOG.error("A request to %s could not be answered.", route.name, exc_info=unshown(error))
        return refused(Refused(500, "the server failed; its log says why."))

    def told(self, refusal: Refused) -> Reply:
        """A refusal as an answer, with what is wrong where that may be told."""
        return refused(refusal if self._error_detail else without_detail(refusal))


def _shorter(seconds: float, wanted: str | None) -> float:
    """``seconds``, or what a caller wants, in the same unit, where that is a shorter time."""
    if wanted is None:
        return seconds
    try:
        asked = float(wanted)
    except ValueError:
        return seconds
    return asked if 0 < asked < seconds else seconds
