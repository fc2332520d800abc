"""One request has one answer, whatever carries it: status, headers and body."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from specml.serving.session import Session
from tests.malformed import GOOD, INFER, PREDICT, binary, infer, rows, tensors
from tests.transports import TRANSPORTS, Running, chunked, closed, read, request, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/v2/models/census/infer"
AS_BINARY = {"id": "a", "parameters": {"binary_data_output": True}}
TENSORS = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def servers(bundle: Path) -> Iterator[dict[str, Running]]:
    limits = {"max_rows": 50, "max_body": 10_000}
    with running(bundle, "asgi", **limits) as asgi, running(bundle, "hot", **limits) as hot:
        yield {"asgi": asgi, "hot": hot}


CASES: dict[str, tuple[bytes, int]] = {
    "rows": (request("POST", "/predict", rows()), 200),
    "many rows": (request("POST", "/predict", json.dumps({"rows": [GOOD] * 50}).encode()), 200),
    "tensors": (request("POST", PATH, infer()), 200),
    "binary": (request("POST", PATH, (one := binary(np.array([50.0]).tobytes()))[0], TENSORS | one[1]), 200),
    "outputs": (request("POST", PATH, json.dumps({**tensors(), **AS_BINARY}).encode()), 200),
    "chunked": (request("POST", "/predict", chunked(rows()[:9], rows()[9:]), {"transfer-encoding": "chunked"}), 200),
    "charset": (request("POST", "/predict", rows(), {"content-type": "Application/JSON; charset=utf-8"}), 200),
    "upper case": (request("POST", "/predict", rows(), {"CONTENT-TYPE": "application/json"}), 200),
    "query": (request("POST", "/predict?a=b", rows()), 200),
    "escaped path": (request("POST", "/%70redict", rows()), 200),
    "HTTP/1.0": (request("POST", "/predict", rows(), version="1.0"), 200),
    "HTTP/1.0 keep-alive": (request("POST", "/predict", rows(), {"connection": "keep-alive"}, version="1.0"), 200),
    "close": (request("POST", "/predict", rows(), {"connection": "close"}), 200),
    "expect": (request("POST", "/predict", rows(), {"expect": "200-nothing"}), 200),
    # uvicorn drops its body
    "upgrade": (request("POST", "/predict", rows(), {"connection": "upgrade", "upgrade": "h2c"}), 400),
    "HEAD": (request("HEAD", "/predict"), 405),
    "GET": (request("GET", "/predict"), 405),
    "no path": (request("POST", "/predicted", rows()), 404),
    "no model": (request("POST", "/v2/models/other/infer", infer()), 404),
    "form": (request("POST", "/predict", rows(), {"content-type": "application/x-www-form-urlencoded"}), 415),
    "gzip": (request("POST", "/predict", rows(), {"content-encoding": "gzip"}), 415),
    "declared too large": (request("POST", "/predict", b"", {"content-length": "99999999999"}), 413),
    "too large": (request("POST", "/predict", b" " * 10_001), 413),
    "chunks too large": (
        request("POST", "/predict", chunked(*[b" " * 4000] * 3), {"transfer-encoding": "chunked"}),
        413,
    ),
    "not HTTP": (b"POST /predict HTTP/1.1\r\nno header\r\n\r\n", 400),
    "two lengths": (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
    "length and chunks": (
        b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    **{f"predict: {name}": (request("POST", "/predict", raw), status) for name, (raw, status, _) in PREDICT.items()},
    **{
        f"infer: {name}": (request("POST", PATH, raw, TENSORS | headers), 413 if name == "2^63 rows" else 400)
        for name, (raw, headers, _) in INFER.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_transport_answers_the_same(name: str, servers: dict[str, Running]) -> None:
    raw, status = CASES[name]
    asgi, hot = (servers[one].ask(raw)[0] for one in TRANSPORTS)
    assert hot == asgi
    assert hot.status == status
    if status >= 400 and name not in ("HEAD", "not HTTP", "two lengths", "length and chunks"):
        assert hot.body["error"]


@pytest.mark.parametrize("name", [name for name, (_, status) in CASES.items() if status < 400 or "predict:" in name])
def test_a_head_that_was_seen_before_is_answered_the_same(name: str, servers: dict[str, Running]) -> None:
    raw, server = CASES[name][0], servers["hot"]
    first, again = server.ask(raw)[0], server.ask(raw)[0]
    assert again == first


def test_the_fast_path_is_taken_and_told(servers: dict[str, Running]) -> None:
    for name, server in servers.items():
        (told,) = server.ask(request("GET", "/healthz"))
        assert told.body["fast_path"] is (name == "hot")


@pytest.mark.parametrize("transport", TRANSPORTS)
class TestEach:
    """What each transport does by itself."""

    def test_a_request_is_called_what_its_caller_calls_it(self, transport: str, servers: dict[str, Running]) -> None:
        for given, kept in (("mine-7", True), ("not/ok here", False), ("x" * 101, False)):
            with servers[transport].connect() as connection:
                connection.sendall(request("POST", "/predict", rows(), {"x-request-id": given, "connection": "close"}))
                raw = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
            head, _, body = raw.partition("\r\n\r\n")
            told = re.search(r"x-request-id: (.*)\r\n", head)
            assert told
            assert told[1] == json.loads(body)["id"]
            assert (told[1] == given) is kept

    def test_pieces_of_any_size_are_a_request(self, transport: str, servers: dict[str, Running]) -> None:
        for piece in (1, 7, 64):
            assert servers[transport].ask(request("POST", "/predict", rows()), piece=piece)[0].status == 200

    def test_requests_sent_ahead_are_answered_in_their_order(self, transport: str, servers: dict[str, Running]) -> None:
        ages = [20, 30, 40]
        raw = [request("POST", "/predict", rows(age=age)) for age in ages]
        raw.insert(1, request("GET", "/v2/health/live"))
        raw.insert(3, request("POST", "/predict", b"{"))
        found = servers[transport].ask(b"".join(raw), answers=5)
        alone = [servers[transport].ask(one)[0] for one in raw]
        assert found == alone
        assert [one.status for one in found] == [200, 200, 200, 400, 200]

    def test_a_connection_is_kept_and_closed_as_asked(self, transport: str, servers: dict[str, Running]) -> None:
        with servers[transport].connect() as connection:
            for body, status in ((rows(), 200), (b"{", 400), (b" " * 10_001, 413), (rows(), 200)):
                connection.sendall(request("POST", "/predict", body))
                assert read(connection).status == status
            connection.sendall(request("POST", "/predict", rows(), {"connection": "close"}))
            answer = read(connection)
            assert ("connection", "close") in answer.headers
            assert closed(connection)
        with servers[transport].connect() as connection:
            connection.sendall(request("POST", "/predict", rows(), version="1.0"))
            assert read(connection).status == 200
            assert closed(connection)

    def test_expect_is_told_to_go_on(self, transport: str, servers: dict[str, Running]) -> None:
        with servers[transport].connect() as connection:
            raw = request("POST", "/predict", rows(), {"expect": "100-continue"})
            connection.sendall(raw[: -len(rows())])
            assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(rows())
            assert read(connection).status == 200

    def test_clients_that_go_hurt_nobody(self, transport: str, servers: dict[str, Running]) -> None:
        server = servers[transport]
        raw = request("POST", "/predict", rows())
        for cut in (10, len(raw) - 40, len(raw) - 1, len(raw)):
            with server.connect() as gone:
                gone.sendall(raw[:cut])
        until = time.monotonic() + 5
        while server.service.answering.ongoing and time.monotonic() < until:
            time.sleep(0.01)
        assert server.service.answering.ongoing == 0
        assert server.ask(raw)[0].status == 200

    def test_one_poisoned_row_of_many_fails_alone(self, transport: str, bundle: Path, gate: Gate) -> None:
        with running(bundle, transport) as server:
            expected = [server.ask(request("POST", "/predict", rows(age=age)))[0] for age in range(64)]
            raw = [request("POST", "/predict", rows(age=Gate.POISON if age == 31 else age)) for age in range(64)]
            gate.close()
            with ThreadPoolExecutor(65) as pool:
                first = pool.submit(server.ask, request("POST", "/predict", rows()))
                assert gate.entered.wait(10)
                asked = [pool.submit(server.ask, one) for one in raw]
                until = time.monotonic() + 10
                while server.service.answering.ongoing < 65 and time.monotonic() < until:
                    time.sleep(0.01)
                gate.open()
                found = [one.result()[0] for one in asked]
                assert first.result()[0].status == 200
        assert max(gate.sizes) == 64
        assert [place for place, one in enumerate(found) if one.status != 200] == [31]
        assert found[31].status == 422
        del found[31], expected[31]
        assert found == expected  # to the last bit

    def test_who_goes_frees_the_queue_and_who_waits_too_long_is_told(
        self, transport: str, bundle: Path, gate: Gate
    ) -> None:
        with running(bundle, transport, batching={"max_queue": 40, "max_batch_size": 8}) as server:
            gate.close()
            with ThreadPoolExecutor(8) as pool:
                first = pool.submit(server.ask, request("POST", "/predict", rows(), {"x-request-timeout-seconds": "1"}))
                assert gate.entered.wait(10)
                gone = server.connect()
                gone.sendall(request("POST", "/predict", json.dumps({"rows": [GOOD] * 30}).encode()))
                _until(lambda: server.service._batcher.waiting_rows == 22)  # one batch is handed over ahead
                full = server.ask(request("POST", "/predict", json.dumps({"rows": [GOOD] * 20}).encode()))[0]
                assert (full.status, "22 rows wait already" in full.body["error"]) == (429, True)
                assert "retry-after" in dict(full.headers)
                gone.close()
                _until(lambda: server.service._batcher.waiting_rows == 0)
                hasty = server.ask(request("POST", "/predict", rows(), {"x-request-timeout-seconds": "0.1"}))[0]
                assert (hasty.status, "within 0.1 s" in hasty.body["error"]) == (504, True)
                assert first.result()[0].status == 504
                gate.open()
                assert server.ask(request("POST", "/predict", rows()))[0].status == 200
            assert server.service.answering.ongoing == 0

    def test_a_body_that_does_not_come_is_told(self, transport: str, bundle: Path) -> None:
        with running(bundle, transport, timeout=1) as server, server.connect() as slow:
            slow.sendall(request("POST", "/predict", rows())[:-5])
            assert server.ask(request("POST", "/predict", rows()))[0].status == 200
            answer = read(slow)
            assert (answer.status, ("connection", "close") in answer.headers) == (408, True)
            assert "within 1 s" in answer.body["error"]
            assert closed(slow)

    def test_what_drains_says_so_and_closes(self, transport: str, bundle: Path) -> None:
        with running(bundle, transport) as server:
            server.service.draining = True
            with server.connect() as connection:
                connection.sendall(request("POST", "/predict", rows()))
                answer = read(connection)
                assert (answer.status, dict(answer.headers)["retry-after"]) == (503, "1")
                assert ("connection", "close") in answer.headers
                assert closed(connection)

    def test_what_waits_is_answered_before_the_server_ends(self, transport: str, bundle: Path, gate: Gate) -> None:
        with running(bundle, transport) as server:
            gate.close()
            with ThreadPoolExecutor(1) as pool, server.connect() as idle:
                asked = pool.submit(server.ask, request("POST", "/predict", rows()))
                assert gate.entered.wait(10)
                server.server.should_exit = True
                assert closed(idle)
                time.sleep(0.2)
                gate.open()
                (answer,) = asked.result()
                assert (answer.status, ("connection", "close") in answer.headers) == (200, True)

    def test_who_takes_no_answer_is_not_read_from(self, transport: str, bundle: Path) -> None:
        """What the kernel holds for a connection is some megabytes in each direction; an answer has 200 kB."""
        raw = request("POST", "/predict", json.dumps({"rows": [GOOD] * 2000}).encode())
        with running(bundle, transport) as server, socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            deaf.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                for _ in range(100):
                    deaf.sendall(raw)
            _until(lambda: server.service.answering.ongoing == 0)
            assert 0 < server.service.counters.requests["/predict", 200] < 50
            assert server.ask(request("POST", "/predict", rows()))[0].status == 200


class Gate:
    """Stands before the model: may keep it from running, and makes it fail on a certain row."""

    POISON = 666

    def __init__(self) -> None:
        self._open, self.entered = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self.open()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self.sizes.clear()
        self.entered.clear()
        self._open.clear()

    def passed(self, columns: dict[str, np.ndarray]) -> None:
        self.entered.set()
        self.sizes.append(len(columns["age"]))
        assert self._open.wait(20)
        if (columns["age"] == self.POISON).any():
            raise RuntimeError("poison")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Calls run in the executor then: they seem to take long."""
    gate, run = Gate(), Session.run

    def gated(self: Session, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        gate.passed(columns)
        return run(self, columns)

    monkeypatch.setattr(Session, "run", gated)
    monkeypatch.setattr("specml.serving.batcher.INLINE", 0.0)
    return gate


def _until(true: Any) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)
