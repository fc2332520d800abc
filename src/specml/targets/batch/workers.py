"""The processes that score: each is given a part of a table after another, and no more than it can take."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from specml.errors import DeployFailed

SCORER = "specml.serving.scoring"
"""What each of them runs, by name: it knows nothing of specs, and this nothing of models."""

Job = tuple[dict[str, Any], bytes, Callable[[dict[str, Any]], None]]
"""What ``scoring.Part`` says of it, its rows as Arrow IPC, and who is told what became of them."""


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Processes that take jobs from one queue.

    Args:
        wanted: what ``scoring.Wanted`` says.
        most: how many; each starts when there is a job that no other is free for.
    """

    def __init__(self, wanted: dict[str, Any], most: int) -> None:
        self._wanted = {**wanted, "parent": os.getpid()}
        self._most = most
        self._jobs: queue.Queue[Job | None] = queue.Queue(maxsize=most)
        self._started: list[tuple[subprocess.Popen[bytes], threading.Thread]] = []
        self.error: Exception | None = None
        """What ended one of them, or was raised by who was told."""

    def put(self, job: Job) -> None:
        """Give a job to whoever is free; waits while all are busy and as many jobs wait already.

        Raises:
            Exception: as ``drain``.
        """
        if len(self._started) < self._most and len(self._started) <= self._jobs.unfinished_tasks:
            self._start()
        while self.error is None:
            with contextlib.suppress(queue.Full):
                self._jobs.put(job, timeout=0.1)
                return
        raise self.error

    def drain(self) -> None:
        """Wait until all jobs are done.

        Raises:
            Exception: what ended a process, or was raised by who was told.
        """
        while self._jobs.unfinished_tasks and self.error is None:
            time.sleep(0.01)
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process, _ in self._started:
            process.kill()
            process.wait()
        for process, thread in self._started:
            with contextlib.suppress(queue.Full):
                self._jobs.put_nowait(None)
            thread.join(5)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()

    def _start(self) -> None:
        # One thread in each: as many as there are cores work side by side.
        threads = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, "-m", SCORER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads},
        )
        thread = threading.Thread(target=self._feed, args=(process,), daemon=True)
        self._started.append((process, thread))
        thread.start()

    def _feed(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(json.dumps(self._wanted).encode() + b"\n")
            while self.error is None and (job := self._jobs.get()) is not None:
                part, rows, done = job
                process.stdin.write(json.dumps({**part, "size": len(rows)}).encode() + b"\n" + rows)
                process.stdin.flush()
                told = json.loads(process.stdout.readline())
                try:
                    done(told)
                except Exception as error:
                    self.error = error
                self._jobs.task_done()
        except (OSError, ValueError):
            status = process.wait()
            self.error = DeployFailed(
                f"a process that scores ended with status {status}; what it said stands above.",
                where="deployment.target",
                hint="It may have taken too much memory: lower deployment.target.part_rows, and deploy again.",
            )


@contextlib.contextmanager
def workers(wanted: dict[str, Any], most: int) -> Iterator[Workers]:
    """Processes that are ended with the block."""
    made = Workers(wanted, most)
    try:
        yield made
    finally:
        made.close()
