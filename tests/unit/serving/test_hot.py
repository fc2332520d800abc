"""What the fast path leans on in uvicorn and in Ray Serve: when one of these fails, look at what has changed there."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
import warnings
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from specml.serving.app import Args, protocol
from specml.serving.auth import salted
from specml.serving.hot import HEAD_REMEMBERED, MOST_HEAD, Cycle, HotProtocol
from tests.malformed import rows
from tests.transports import closed, read, request, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.serving.hot import Head
    from specml.serving.service import Service
    from tests.transports import Running

PINNED = dict(
    re.findall(r"^(uvicorn|ray|httptools)(?:\[.*\])?==(\S+)$", Path("constraints.txt").read_text(), flags=re.MULTILINE)
)


def test_the_versions_are_those_that_were_looked_at() -> None:
    assert PINNED == {"uvicorn": "0.54.0", "ray": "2.60.0", "httptools": "0.9.0"}
    for name in ("uvicorn", "ray", "httptools"):
        assert version(name) == PINNED[name], f"{name} was changed: see what the fast path leans on in serving/hot.py"


def test_uvicorn_has_what_the_protocol_leans_on() -> None:
    methods = ["connection_made", "connection_lost", "data_received", "resume_writing", "shutdown"]
    methods += ["on_message_begin", "on_url", "on_header", "on_headers_complete", "on_body", "on_message_complete"]
    for name in [*methods, "on_response_complete"]:
        assert callable(getattr(HttpToolsProtocol, name)), name
    names = set(HttpToolsProtocol.shutdown.__code__.co_names) | set(HttpToolsProtocol.connection_lost.__code__.co_names)
    asked = {"response_complete", "keep_alive", "disconnected"}
    assert asked <= names
    assert asked <= set(Cycle.__slots__)
    assert asked <= set(RequestResponseCycle.__init__.__code__.co_names)


@pytest.fixture
def auto(service: Service) -> Iterator[type[HotProtocol]]:
    protocols: dict[str, object] = uvicorn.config.HTTP_PROTOCOLS  # type: ignore[assignment]
    before = protocols["auto"]
    made = protocol(service, Args(bundle=""))
    assert isinstance(made, type)
    assert issubclass(made, HotProtocol)
    protocols["auto"] = made
    yield made
    protocols["auto"] = before


def test_the_servers_of_rays_replicas_speak_what_uvicorn_calls_auto(auto: type[HotProtocol]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what Ray imports
        from ray.serve._private import http_util
        from ray.serve.config import HTTPOptions

    async def main() -> None:
        options = HTTPOptions(host="127.0.0.1", port=0)
        serving, server = await http_util.start_asgi_http_server(
            None, options, event_loop=asyncio.get_running_loop(), enable_so_reuseport=False
        )
        while not server.started:
            await asyncio.sleep(0.01)
        assert server.config.http_protocol_class is auto
        server.should_exit = True
        await serving

    asyncio.run(main())


def test_off_is_uvicorns_own(service: Service) -> None:
    assert protocol(service, Args(bundle="", fast_path=False)) == uvicorn.config.HTTP_PROTOCOLS["auto"]


def test_a_head_that_does_not_end_is_refused(bundle: Path) -> None:
    with running(bundle, "hot", timeout=1) as server:
        with server.connect() as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nhost: ")
            assert read(slow).status == 408
            assert closed(slow)
        with server.connect() as large:
            large.sendall(b"POST /predict HTTP/1.1\r\nhost: " + b"x" * MOST_HEAD)
            assert read(large).status == 431
            assert closed(large)
        with server.connect() as first:  # a second head, never ended, waits for its turn
            first.sendall(request("POST", "/predict", rows()) + b"POST /predict HTTP/1.1\r\n")
            assert read(first).status == 200
            assert read(first).status == 408


def test_a_body_that_nobody_waits_for_any_more_has_an_end(bundle: Path) -> None:
    """The application answers at once; a byte now and then would keep the connection for good."""
    with running(bundle, "hot", timeout=1) as server, server.connect() as drip:
        drip.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n")
        assert read(drip).status == 200
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() < began + 8:
                drip.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() < began + 7


def test_trailers_are_bounded(bundle: Path) -> None:
    with running(bundle, "hot") as server, server.connect() as endless:
        head = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        endless.sendall(head + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n")
        time.sleep(0.2)  # read with the body, they would be counted from the next on
        for number in range(60):
            endless.sendall(b"a%d: %b\r\n" % (number, b"y" * 1000))
        time.sleep(0.3)  # what is not read when a connection closes resets it
        endless.sendall(b"z: " + b"y" * 6000)
        assert read(endless).status == 431
        assert closed(endless)


def test_what_is_sent_ahead_of_an_answer_is_no_part_of_a_head(bundle: Path) -> None:
    """The end of a large body and the beginning of the next head may come together."""
    body = rows() + b" " * (MOST_HEAD + 10_000)
    with running(bundle, "hot", max_body=200_000) as server, server.connect() as connection:
        raw = request("POST", "/predict", body)
        connection.sendall(raw + raw[:20])
        assert read(connection).status == 200
        connection.sendall(raw[20:])
        assert read(connection).status == 200


def test_an_idle_connection_is_closed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with running(bundle, "hot") as server:
        server.server.config.timeout_keep_alive = 0.3  # type: ignore[assignment]
        with server.connect() as used, server.connect() as never:
            used.sendall(request("POST", "/predict", rows()))
            assert read(used).status == 200
            assert closed(used)
            assert closed(never)
            assert time.monotonic() - began < 4


def test_half_of_what_a_client_sends_is_nobodys(bundle: Path) -> None:
    """A refusal may come before the body: the rest of that is read, and is no request."""
    with running(bundle, "hot") as server, server.connect() as connection:
        raw = request("POST", "/predict", b"x" * 500, {"content-type": "text/html"})
        connection.sendall(raw[:-200])
        assert read(connection).status == 415
        connection.sendall(raw[-200:] + request("POST", "/predict", rows()))
        assert read(connection).status == 200
        connection.shutdown(socket.SHUT_WR)
        assert closed(connection)


# Heads that were seen before


def heads(server: Running) -> dict[bytes, Head]:
    return dict(server.server.config.http_protocol_class.heads)  # type: ignore[union-attr]


def whole(**headers: str) -> bytes:
    """A request without an id of its own, but for what is told."""
    told = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    raw = rows()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{told}"
    return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw


def test_a_head_is_known_again_whatever_the_requests_are_called(bundle: Path) -> None:
    with running(bundle, "hot") as server, server.connect() as connection:
        for identity in ("one", "two", "three"):
            connection.sendall(whole(x_request_id=identity))
            answer = raw_answer(connection)
            assert f"x-request-id: {identity}\r\n".encode() in answer
            assert f'"id":"{identity}"'.encode() in answer
        assert len(heads(server)) == 1
        for _ in range(3):
            connection.sendall(whole())
            assert re.search(rb'"id":"[0-9a-f]{32}"', raw_answer(connection))
        assert len(heads(server)) == 2


@pytest.mark.parametrize("identity", ["no good id", "x" * 101, ""])
def test_an_id_that_is_none_is_not_answered(bundle: Path, identity: str) -> None:
    with running(bundle, "hot") as server, server.connect() as connection:
        for _ in range(2):
            connection.sendall(whole(x_request_id="good"))
            raw_answer(connection)
            connection.sendall(whole(x_request_id=identity))
            assert re.search(rb"x-request-id: [0-9a-f]{32}\r\n", raw_answer(connection))


def test_only_whole_requests_alone_are_known(bundle: Path) -> None:
    raw = whole()
    with running(bundle, "hot") as server, server.connect() as connection:
        connection.sendall(raw[:30])
        time.sleep(0.1)
        connection.sendall(raw[30:])
        raw_answer(connection)
        connection.sendall(whole(X_Request_Id="one"))  # HAProxy writes it otherwise
        raw_answer(connection)
        connection.sendall(whole(x_filler="y" * HEAD_REMEMBERED))
        raw_answer(connection)
        assert heads(server) == {}
        connection.sendall(raw)
        raw_answer(connection)
        (known,) = heads(server).values()
        assert known.length == len(rows())
        # With what is sent ahead, and with a body of another length, it is read as ever.
        connection.sendall(raw + raw)
        assert [raw_answer(connection)[:15], raw_answer(connection)[:15]] == [b"HTTP/1.1 200 OK"] * 2
        connection.sendall(raw[:-5])
        time.sleep(0.1)
        connection.sendall(raw[-5:] + raw[:50])
        assert raw_answer(connection)[:15] == b"HTTP/1.1 200 OK"
        connection.sendall(raw[50:])
        assert raw_answer(connection)[:15] == b"HTTP/1.1 200 OK"


def test_who_is_known_is_asked_for_the_key_all_the_same(bundle: Path) -> None:
    tomorrow = date.today() + timedelta(days=1)
    key = {"env": "NONE", "digests": [f"salt${salted('a-key-of-a-test', 'salt')}"], "until": str(tomorrow)}
    with running(bundle, "hot", auth={"keys": {"one": key}}) as server, server.connect() as connection:
        raw = whole(authorization="Bearer a-key-of-a-test")
        for _ in range(2):
            connection.sendall(raw)
            assert read(connection).status == 200
        assert len(heads(server)) == 1
        server.service._access.keys._clock = lambda: time.time() + 3 * 86_400  # type: ignore[union-attr]
        connection.sendall(raw)
        assert read(connection).status == 401
        server.service._access.keys._clock = time.time  # type: ignore[union-attr]
        server.service.draining = True
        connection.sendall(raw)
        assert read(connection).status == 503
        server.service.draining = False


def test_so_many_heads_are_known_and_no_more(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specml.serving.hot.HEADS", 3)
    with running(bundle, "hot") as server, server.connect() as connection:
        for number in range(5):
            connection.sendall(whole(x_number=str(number)))
            raw_answer(connection)
        assert [known.headers["x-number"] for known in heads(server).values()] == ["2", "3", "4"]


def raw_answer(connection: socket.socket) -> bytes:
    """The next answer with its body, as it is sent."""
    told = b""
    while b"\r\n\r\n" not in told:
        told += connection.recv(1)
    length = int(re.search(rb"content-length: (\d+)", told)[1])  # type: ignore[index]
    while length > len(told) - told.index(b"\r\n\r\n") - 4:
        told += connection.recv(1)
    return told
