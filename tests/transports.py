"""A service behind its transports without Ray, and raw requests to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import uvicorn

from specml.serving.app import Args, config, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from specml.serving.service import Service

TRANSPORTS = ("asgi", "hot")

OWN = {"date", "x-request-id"}
"""Headers that differ from one answer to the next."""


class Answer(NamedTuple):
    """What came back: all but what differs between two answers to the same request."""

    status: int
    headers: list[tuple[str, str]]
    body: Any


@dataclass
class Running:
    """A server on loopback."""

    port: int
    service: Service
    server: uvicorn.Server

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, raw: bytes, *, answers: int = 1, piece: int = 0) -> list[Answer]:
        """Send ``raw``, in pieces of so many bytes, and read so many answers."""
        with self.connect() as connection:
            for start in range(0, len(raw), piece or len(raw)):
                connection.sendall(raw[start : start + (piece or len(raw))])
            return [read(connection, raw.partition(b" ")[0].decode()) for _ in range(answers)]


@contextlib.contextmanager
def running(bundle: Path, transport: str, **args: Any) -> Iterator[Running]:
    """A server over ``bundle``, in a thread."""
    told = Args.model_validate({"bundle": str(bundle), "fast_path": transport == "hot", **args})
    started: list[Running] = []
    up = threading.Event()

    async def serve() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(1024)
            service = told.service(transport)
            server = uvicorn.Server(config(service, told, idle=5, log_level="critical"))
            started.append(Running(listening.getsockname()[1], service, server))
            asyncio.get_running_loop().call_later(0.01, up.set)
            await server.serve([listening])

    thread = threading.Thread(target=lambda: run(serve()), daemon=True)
    thread.start()
    try:
        assert up.wait(30)
        yield started[0]
    finally:
        started[0].server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def request(
    method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, *, version: str = "1.1"
) -> bytes:
    """A request as it is sent; ``content-length`` is added where the headers say nothing of it."""
    # Named by the caller, a request has an id of the same length whoever answers it.
    told = {"host": "127.0.0.1", "content-type": "application/json", "x-request-id": "asked", **(headers or {})}
    if "transfer-encoding" not in told:
        told.setdefault("content-length", str(len(body)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode("latin-1") + body


def chunked(*parts: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


def read(connection: socket.socket, method: str = "POST") -> Answer:
    """The next answer on a connection."""
    answer = http.client.HTTPResponse(_Kept(connection), method=method)  # type: ignore[arg-type]
    answer.begin()
    body: Any = answer.read()
    headers = [(name, value) for name, value in answer.getheaders() if name not in OWN]
    with contextlib.suppress(ValueError):
        body = json.loads(body)
        if isinstance(body, dict):
            body.pop("id", None)
    return Answer(answer.status, headers, body)


class _Kept:
    """A connection that is read byte by byte, so that what follows an answer stays in it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def makefile(self, *_: Any, **__: Any) -> Any:
        return self._connection.makefile("rb", buffering=0)


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed."""
    return connection.recv(1) == b""
