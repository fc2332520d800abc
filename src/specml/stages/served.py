"""The packaged model behind HTTP, in a process of its own, as gates ask it."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from specml.data import feature_array
from specml.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import polars as pl

    from specml.bundle import Contract
    from specml.evidence import Answers

TIMEOUT = 60.0
"""Seconds that an answer may take."""


@contextlib.contextmanager
def serving(args: dict[str, Any]) -> Iterator[int]:
    """The port of a replica with these ``args`` (see ``serving.app.Args``); it ends with the block.

    Raises:
        StageFailed: it does not come up.
    """
    command = [sys.executable, "-m", "specml.serving.alone"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(args) + "\n")
            process.stdin.flush()
            told = process.stdout.readline()
            if not told:
                raise StageFailed("the bundle's server does not come up.", hint="The stage's log says why.")
            yield int(json.loads(told)["port"])
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


class Served:
    """A ``evidence.Server`` at a port of loopback; ``read`` makes answers of the graph's outputs.

    ``limits``: rows and bytes of one request.
    """

    def __init__(
        self,
        port: int,
        contract: Contract,
        test: pl.DataFrame,
        read: Callable[[list[dict[str, np.ndarray]]], Answers],
        limits: tuple[int, int],
    ) -> None:
        self.path = f"/v2/models/{contract.name}/infer"
        self.max_rows, self.max_body = limits
        self._port, self._contract, self._test, self._read = port, contract, test, read
        self._connection = self._connected()

    def answer(self, rows: pl.DataFrame, at_once: int = 1000) -> Answers:
        """What it answers to rows, ``at_once`` of them in a request, by the Open Inference Protocol."""
        return self._read([self._outputs(part) for part in rows.iter_slices(min(at_once, self.max_rows))])

    def ask(self, path: str, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
        """Status and body of the answer to a ``POST``."""
        try:
            return _asked(self._connection, path, body, kind)
        except http.client.HTTPException as error:
            self.close()
            raise ConnectionError(f"no answer: {type(error).__name__}") from None
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        self._connection.close()

    def timed(self, rows: int, calls: int, connections: int = 1) -> tuple[list[float], float]:
        """The seconds that each of ``calls`` requests for ``rows`` rows took, and those of all together."""
        import numpy as np

        path, height = self.path, self._test.height
        taken = [self._test[(np.arange(rows) + start * rows) % height] for start in range(min(64, 1 + 4096 // rows))]
        bodies = [json.dumps({"inputs": self._tensors(part)}).encode() for part in taken]
        seconds: list[list[float]] = [[] for _ in range(connections)]
        began: list[float] = []
        # Taken before any of them goes on: this thread may come to run when they are done.
        ready = threading.Barrier(connections, action=lambda: began.append(time.perf_counter()))

        def ask(own: list[float], share: int) -> None:
            # Who gets no answer asks no more, and the rest of his share is missing from what is returned.
            failures = (OSError, http.client.HTTPException)
            with contextlib.suppress(*failures), contextlib.closing(self._connected()) as connection:
                with contextlib.suppress(*failures):
                    _asked(connection, path, bodies[0], "application/json")
                ready.wait()
                for number in range(share):
                    asked = time.perf_counter()
                    status, _ = _asked(connection, path, bodies[number % len(bodies)], "application/json")
                    if status == 200:
                        own.append(time.perf_counter() - asked)

        shares = [calls // connections + (one < calls % connections) for one in range(connections)]
        asking = [threading.Thread(target=ask, args=pair) for pair in zip(seconds, shares, strict=True)]
        for one in asking:
            one.start()
        for one in asking:
            one.join()
        return [each for own in seconds for each in own], time.perf_counter() - began[0]

    def _connected(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)

    def _tensors(self, rows: pl.DataFrame) -> list[dict[str, Any]]:
        return [_tensor(one.name, feature_array(rows, one)) for one in self._contract.inputs]

    def _outputs(self, rows: pl.DataFrame) -> dict[str, np.ndarray]:
        import numpy as np

        status, raw = self.ask(self.path, json.dumps({"inputs": self._tensors(rows)}).encode())
        if status != 200:
            raise StageFailed(f"the bundle's server refuses held-out rows: {json.loads(raw).get('error', status)}")
        told = self._contract.outputs()
        return {
            one["name"]: np.array(one["data"], object if told[one["name"]] == "string" else np.float32).reshape(
                one["shape"]
            )
            for one in json.loads(raw)["outputs"]
        }


def _tensor(name: str, values: np.ndarray) -> dict[str, Any]:
    """A column as the protocol's JSON has it; a missing number is null."""
    if values.dtype == object:
        data, datatype = values.tolist(), "BYTES"
    else:
        data, datatype = [None if one != one else one for one in values.tolist()], "FP64"  # noqa: PLR0124
    return {"name": name, "datatype": datatype, "shape": [len(values), 1], "data": data}


def _asked(connection: http.client.HTTPConnection, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
    connection.request("POST", path, body, {"content-type": kind})
    answer = connection.getresponse()
    return answer.status, answer.read()
