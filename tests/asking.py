"""Ask a server the same again and again over raw sockets, in a process of its own: ``python -m tests.asking``.

Light enough to ask some times what two cores can answer. With a rate the loop is open: questions are due at fixed
times, whether answers come or not, and take as long as from when they were due. Without one, each connection asks again
at once. What is to be asked comes in as JSON on the standard input; what became of each goes out as JSON.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import NamedTuple

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
AGAIN = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)
PREDICTIONS = b'"predictions":'


@dataclass(frozen=True)
class Wanted:
    """What to ask."""

    port: int
    body: str
    connections: int
    """At most; questions that find none free wait, and that counts as time they take."""
    seconds: float
    rate: float = 0.0
    """Questions a second; 0: each connection asks without a pause."""
    patience: float = 15.0
    """Seconds after which a question is taken for lost."""

    def json(self) -> str:
        return json.dumps(asdict(self))


class Answered(NamedTuple):
    """What became of one question."""

    due: float
    """On the monotonic clock, which all processes share."""
    seconds: float
    """From then to the answer."""
    lag: float
    """Seconds of these until it was sent: large where who asks can't keep up."""
    status: int
    """0 where no answer came."""
    after: int
    """What Retry-After says; 0 where it is not there."""
    predictions: int
    """Which of the predictions that were seen it holds; the same question has one answer."""


class _Connection:
    """One connection that is kept alive."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self._port, self._selector = port, selector
        self._socket: socket.socket | None = None
        self.due = self.lag = 0.0
        self.buffer = b""

    def ask(self, request: bytes, due: float) -> None:
        self.due, self.buffer = due, b""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(self._socket, selectors.EVENT_READ, self)
        self.lag = time.monotonic() - due
        self._socket.sendall(request)

    def read(self) -> tuple[bytes, bytes] | None:
        """Head and body, once they are there; empty where the connection ended."""
        assert self._socket is not None
        try:
            part = self._socket.recv(1 << 20)
        except OSError:
            part = b""
        if not part:
            self.close()
            return b"", b""
        self.buffer += part
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        told = LENGTH.search(head)
        if not end or len(body) < (int(told[1]) if told else 0):
            return None
        if b"\r\nconnection: close" in head.lower():
            self.close()
        return head, body

    def close(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None


def ask(wanted: Wanted) -> list[Answered]:
    """Ask for as long as wanted; then wait for what is on its way."""
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(wanted.body)}\r\n\r\n{wanted.body}".encode()
    selector = selectors.DefaultSelector()
    idle = [_Connection(wanted.port, selector) for _ in range(wanted.connections)]
    busy: set[_Connection] = set()
    answered: list[Answered] = []
    seen: dict[bytes, int] = {}
    began, asked = time.monotonic(), 0
    end = began + wanted.seconds

    def over(one: _Connection, status: int = 0, after: int = 0, predictions: int = -1) -> None:
        answered.append(Answered(one.due, time.monotonic() - one.due, one.lag, status, after, predictions))
        busy.discard(one)
        idle.append(one)

    while (now := time.monotonic()) < end or (busy and now < end + wanted.patience):
        while idle and now < end and (not wanted.rate or asked < wanted.rate * (now - began)):
            one = idle.pop()
            busy.add(one)
            try:
                one.ask(request, began + asked / wanted.rate if wanted.rate else now)
            except OSError:
                one.close()
                over(one)
                asked += 1
                break  # nobody listens: time must go on
            asked += 1
        # Questions are due in between; sleeping short keeps them on time.
        for key, _ in selector.select(0.001 if now < end else 0.1):
            one = key.data
            if (answer := one.read()) is None or one not in busy:
                continue
            head_of, body = answer
            again = AGAIN.search(head_of)
            status = int(head_of[9:12] or 0)
            which = seen.setdefault(body.partition(PREDICTIONS)[2], len(seen)) if status == 200 else -1
            over(one, status, int(again[1]) if again else 0, which)
    for one in [*busy]:
        one.close()
        over(one)
    for one in idle:
        one.close()
    return answered


if __name__ == "__main__":
    json.dump(ask(Wanted(**json.load(sys.stdin))), sys.stdout)
