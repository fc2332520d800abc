"""HTTP for the model's own paths, answered inside uvicorn's protocol.

``POST /predict`` and ``POST /v2/models/NAME/infer`` are admitted when their heads are parsed, read when their bodies
are there, and answered when their batch has run: no ASGI messages, no task, no timer for each. Whatever else there is
(other paths, ``Expect``, upgrades, requests that are sent before the one before is answered) goes to the ASGI
application as it would without this. Both ask the same ``Service``: ``serving.fast_path: off`` answers the same, later.

Clients send the same heads again and again: of a whole request whose head was seen before, to the byte but for its id,
nothing is parsed but the body.

It leans on uvicorn's ``HttpToolsProtocol``: on its callbacks for the parser; on its keeping the request at hand in
``cycle`` and asking that for ``response_complete`` and setting its ``keep_alive`` when it shuts down; and on
``on_response_complete``, which goes on with what was sent ahead. ``tests/unit/serving/test_hot.py`` holds it to that.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from specml.serving.capture import ID, request_id
from specml.serving.refusal import Refused
from specml.serving.routes import JSON, REQUEST_ID, too_large

if TYPE_CHECKING:
    import asyncio

    from specml.serving.answering import Going
    from specml.serving.routes import Reply, Route
    from specml.serving.service import Service

STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

MOST_HEAD = 65_536
"""Bytes of a request's head; beyond: 431."""

HEADS = 512
"""Heads that are remembered; they tell the bodies' lengths, which differ by some digits."""
HEAD_REMEMBERED = 4_096
"""Bytes of a head that is remembered."""
NAMED = f"\r\n{REQUEST_ID}: ".encode()
"""Before a request's id, as HAProxy writes it."""


class Head(NamedTuple):
    """What a head says that was seen before."""

    route: Route
    path: str
    headers: dict[str, str]
    keep_alive: bool
    length: int
    """Bytes of the body."""
    joins: bool
    """Whether it is answered with others that are read in the same turn."""


class Cycle:
    """A request for the model on a connection, from its head to its answer; uvicorn's word for it."""

    __slots__ = ("disconnected", "going", "headers", "keep_alive", "length", "parts", "response_complete", "route")

    def __init__(self, headers: dict[str, str], *, keep_alive: bool) -> None:
        self.headers, self.keep_alive = headers, keep_alive
        self.route: Route | None = None
        self.parts: list[bytes] = []
        self.length = 0
        self.going: Going | None = None
        self.response_complete = False
        self.disconnected = False


class HotProtocol(HttpToolsProtocol):
    """A connection. ``of`` makes the class that a server takes."""

    service: Service
    paths: dict[bytes, str]
    """The paths of the model, as they are sent, by what they are called."""
    heads: OrderedDict[bytes, Head]
    """What heads say, without the requests' ids."""
    _defaults: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")
    """The headers that uvicorn puts into every answer, and as they are sent; they change every second."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: Cycle | None = None
        """The request that is not answered yet; ``cycle`` may be one behind it."""
        self._fast = False
        """Whether the message that is being read is answered here."""
        self._head = False
        """Whether the message that is being read has not told all of its head."""
        self._loose = 0
        """Bytes of that message since the last that came to anything: of a head, or of trailers."""
        self._moved = False
        """Whether something came to something in what was just received."""
        self._begun = 0.0
        """When the message began that is being read; 0: none is."""
        self._since = 0.0
        """Since when nothing is asked."""
        self._unread = False
        """Whether the client has not taken an answer yet."""
        self._watch: asyncio.TimerHandle | None = None
        self._read: Cycle | None = None
        """The request that was read whole in what was just received."""

    @classmethod
    def of(cls, service: Service) -> type[HotProtocol]:
        """The protocol that asks ``service``."""
        paths = {path.encode(): path for path in service.model_paths}
        own = {"service": service, "paths": paths, "heads": OrderedDict(), "__module__": __name__}
        return type("HotProtocol", (cls,), own)

    # The connection

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.service.fast = True
        self._since = time.monotonic()
        self._watch = self.loop.call_later(min(self.service.timeout, self.timeout_keep_alive), self._look)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        waiting = self._waiting
        if waiting is not None:
            waiting.disconnected = True
            if waiting.going is not None:
                self.service.answering.leave(waiting.going)
        if isinstance(self.cycle, Cycle):
            self.cycle = None  # type: ignore[assignment]
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        begins = not self._begun
        if begins and self._known(data):
            return
        self._moved, self._read = False, None
        super().data_received(data)
        if begins and self._read is not None:
            self._remember(data, self._read)
        if self._begun and not self._moved and not self.transport.is_closing():
            self._loose += len(data)
            if self._loose > MOST_HEAD:
                if not (self._fast or self._idle()):  # its answer would come before that of the request before it
                    self.transport.abort()
                    return
                self._give_up(Refused(431, f"the request's head, or its trailers, are larger than {MOST_HEAD} bytes."))

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread:
            self._unread = False
            self._since = time.monotonic()
            self.flow.resume_reading()

    def _look(self) -> None:
        """Now and then: give up who owes the rest of a request for too long, or asks nothing."""
        now = time.monotonic()
        often = min(self.service.timeout, self.timeout_keep_alive)
        until = now + often
        closing = self.transport.is_closing()
        if closing or (not self._begun and self._idle()):
            until = self._since + self.timeout_keep_alive
            if now >= until:
                if closing or self._unread:  # what a client does not take would be waited for without end
                    self.transport.abort()
                    return
                self.transport.close()
                until = now + often
        elif self._begun and (self._fast or self._idle()):
            until = self._begun + self.service.timeout
            if now >= until:
                self._give_up(Refused(408, f"the rest of the request did not come within {self.service.timeout:g} s."))
                until = now + often
        self._watch = self.loop.call_later(min(until - now, often), self._look)

    def _idle(self) -> bool:
        """Whether no request waits for its answer."""
        return self._waiting is None and (self.cycle is None or self.cycle.response_complete)

    # The message whose head is known

    def _known(self, data: bytes) -> bool:
        """Read a whole request whose head was seen before; whether it was one."""
        end = data.find(b"\r\n\r\n") + 4
        head, identity = _apart(data, end)
        known = self.heads.get(head)
        if known is None or len(data) - end != known.length or not self._idle():
            return False
        if identity and not ID.fullmatch(identity):
            return False
        self._unset_keepalive_if_required()
        cycle = Cycle({**known.headers, REQUEST_ID: identity or request_id()}, keep_alive=known.keep_alive)
        self._waiting = cycle
        self.cycle = cycle  # type: ignore[assignment]
        try:
            self.service.admit_again(known.route, known.path, cycle.headers)
        except Refused as refusal:
            self._answer(cycle, self.service.refuse(refusal))
            return True
        answering = self.service.answering
        begin = answering.begin_soon if known.joins else answering.begin
        cycle.going = begin(known.route, data[end:], cycle.headers, partial(self._answer, cycle))
        return True

    def _remember(self, data: bytes, cycle: Cycle) -> None:
        """Know the head of a request again that was received in one piece, and nothing else with it."""
        end = data.find(b"\r\n\r\n") + 4
        if end + cycle.length != len(data) or end > HEAD_REMEMBERED or "content-length" not in cycle.headers:
            return
        assert cycle.route is not None
        head, identity = _apart(data, end)
        if head.lower().count(REQUEST_ID.encode()) != bool(identity):  # written otherwise, or twice
            return
        if identity and not ID.fullmatch(identity):
            return
        headers = {name: value for name, value in cycle.headers.items() if name != REQUEST_ID}
        joins = self.service.answering.joins(cycle.route, headers, cycle.length)
        self.heads[head] = Head(cycle.route, self.paths[self.url], headers, cycle.keep_alive, cycle.length, joins)
        if len(self.heads) > HEADS:
            self.heads.popitem(last=False)

    # The message

    @override
    def on_message_begin(self) -> None:
        # What the application is told of the request is made when it is asked.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._fast = False
        self._head, self._loose = True, 0
        self._begun = time.monotonic()

    @override
    def on_headers_complete(self) -> None:
        self._head, self._loose, self._moved = False, 0, True
        if not self._answers():
            url, headers, expect = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expect
            self.headers += headers
            super().on_headers_complete()
            return
        self._fast = True
        headers_by_name = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers}
        headers_by_name[REQUEST_ID] = request_id(headers_by_name.get(REQUEST_ID))
        keep = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        cycle = Cycle(headers_by_name, keep_alive=keep)
        self._waiting = cycle
        self.cycle = cycle  # type: ignore[assignment]
        try:
            cycle.route = self.service.admit("POST", self.paths[self.url], headers_by_name)
        except Refused as refusal:
            self._answer(cycle, self.service.refuse(refusal))

    def _answers(self) -> bool:
        """Whether the message is one for the model, and nothing about it is out of the ordinary."""
        if self.url not in self.paths or self.parser.get_method() != b"POST":
            return False
        return self._idle() and not self.expect_100_continue and not self.parser.should_upgrade()

    @override
    def on_body(self, body: bytes) -> None:
        self._loose, self._moved = 0, True
        if not self._fast:
            super().on_body(body)
            return
        cycle = self._waiting
        if cycle is None or cycle.route is None:
            return  # it was refused
        cycle.length += len(body)
        if cycle.length > cycle.route.most:
            self._answer(cycle, self.service.refuse(too_large(cycle.route.most)))
        else:
            cycle.parts.append(body)

    @override
    def on_message_complete(self) -> None:
        self._begun, self._loose, self._moved = 0.0, 0, True
        if not self._fast:
            super().on_message_complete()
            return
        cycle = self._waiting
        if cycle is None or cycle.route is None:  # it was refused
            self._since = time.monotonic()
            return
        self._read = cycle
        body = cycle.parts[0] if len(cycle.parts) == 1 else b"".join(cycle.parts)
        cycle.parts.clear()
        cycle.going = self.service.answering.begin(cycle.route, body, cycle.headers, partial(self._answer, cycle))

    # The answer

    def _answer(self, cycle: Cycle, reply: Reply) -> None:
        cycle.response_complete = True
        self._waiting = None
        if self.transport.is_closing():
            return
        headers = reply.headers
        if headers is JSON:
            told, closed = _JSON, False
        else:
            told = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
            closed = headers.get("connection") == "close"
        keep = cycle.keep_alive and not closed
        last = "\r\n" if keep or closed else "connection: close\r\n\r\n"
        head = f"{told}content-length: {len(reply.body)}\r\n{REQUEST_ID}: {cycle.headers[REQUEST_ID]}\r\n{last}"
        self.transport.write(
            b"".join((STATUS[reply.status], self._own(), head.encode("latin-1", "replace"), reply.body))
        )
        if not keep:
            self.transport.close()
        elif self.pipeline:
            self.on_response_complete()  # what was sent ahead has its turn
            return
        self.server_state.total_requests += 1
        self._since = time.monotonic()
        if self.flow.write_paused:  # who takes no answer is not read from
            self._unread = True
            self.flow.pause_reading()

    def _own(self) -> bytes:
        headers = self.server_state.default_headers
        cls = type(self)
        if cls._defaults[0] is not headers:
            cls._defaults = headers, b"".join([b"%b: %b\r\n" % one for one in headers])
        return cls._defaults[1]

    @override
    def on_response_complete(self) -> None:
        self._since = time.monotonic()
        super().on_response_complete()

    def _give_up(self, refusal: Refused) -> None:
        """Refuse a request of which not all has come, and all that could follow."""
        cycle = self._waiting
        if cycle is None and not self._head:  # it was answered before
            self.transport.close()
            return
        if cycle is None or not self._fast:
            cycle = Cycle({REQUEST_ID: request_id()}, keep_alive=False)
        cycle.keep_alive = False
        self._answer(cycle, self.service.refuse(refusal))


def _apart(data: bytes, end: int) -> tuple[bytes, str]:
    """The head that ends at ``end`` without the request's id, and the id; empty where it has none."""
    at = data.find(NAMED, 0, end) + len(NAMED)
    if at < len(NAMED):
        return data[:end], ""
    stop = data.find(b"\r\n", at, end)
    return data[:at] + data[stop:end], data[at:stop].decode("latin-1")


_JSON = "".join(f"{name}: {value}\r\n" for name, value in JSON.items())
