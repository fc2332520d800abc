"""Where the trials of a generation are judged: here, or in processes of their own."""

from __future__ import annotations

import os
import pickle
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from specml.errors import StageFailed
from specml.files import write_atomic
from specml.processes import begin_worker
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.kinds import Candidate
    from specml.stages.cross_validation import Judged

    Told = tuple[Judged, float]
    """What is told of a setting, and the CPU seconds that it took."""


class Judges:
    """Judges settings: in processes of their own where there are threads for more than one, else here.

    ``file``: through which these are told what to judge. A pipe would hold what fits into it alone: were the process
    killed before it has read, who writes the rest would wait for good.
    """

    def __init__(self, judge: Callable[..., Judged], most: int, file: Path) -> None:
        self._judge, self._file = judge, file
        self._workers = min(threads(), most)
        self._pool: Any = None
        self.nodes: frozenset[str] = frozenset()
        """Of a cluster: none."""

    def __enter__(self) -> Judges:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._file.unlink(missing_ok=True)

    def __call__(
        self, candidates: dict[int, Candidate], rival: tuple[float, ...], may_begin: Callable[[int], bool]
    ) -> Iterator[tuple[int, Told]]:
        """Judge each candidate against ``rival``; yields them as they end.

        ``may_begin(n)``: whether another may begin while ``n`` are being judged; after a no none begins.
        """
        if self._workers == 1:
            for number, candidate in candidates.items():
                if not may_begin(0):
                    return
                yield number, timed(partial(self._judge, threads=1), candidate, rival)
            return
        from concurrent.futures.process import BrokenProcessPool

        try:
            yield from self._side_by_side(candidates, rival, may_begin)
        except BrokenProcessPool:
            # One that was starting while the pool gave up would wait for work, and the pool for its end, for good.
            for process in list((self._pool._processes or {}).values()):
                process.kill()
            hint = f"It may have taken too much memory: set SPECML_THREADS below {threads()}."
            raise StageFailed("a process that judged a trial was killed.", where="search", hint=hint) from None

    def _side_by_side(
        self, candidates: dict[int, Candidate], rival: tuple[float, ...], may_begin: Callable[[int], bool]
    ) -> Iterator[tuple[int, Told]]:
        from concurrent.futures import FIRST_COMPLETED, Future, wait

        left = list(candidates.items())
        waiting: dict[Future[Told], int] = {}
        while left or waiting:
            while left and len(waiting) < self._workers:
                if not may_begin(len(waiting)):
                    left.clear()
                    break
                number, candidate = left.pop(0)
                waiting[self._started().submit(_judged, candidate, rival)] = number
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()

    def _started(self) -> Any:
        """The pool of processes, which start when the first is needed."""
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        if self._pool is None:
            share = threads() // self._workers
            write_atomic(self._file, pickle.dumps(partial(self._judge, threads=share)))
            begin = pickle.dumps(partial(_begin, self._file))
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), begin_worker, (os.getpid(), begin))
        return self._pool


def timed(judge: Callable[..., Judged], candidate: Candidate, rival: tuple[float, ...]) -> Told:
    """Judge ``candidate``, and the CPU seconds of this process meanwhile, its threads' among them."""
    begun = time.process_time()
    return judge(candidate=candidate, rival=rival), time.process_time() - begun


_JUDGE: list[Callable[..., Judged]] = []
"""In a process of ``Judges``: what it was begun with."""


def _begin(file: Path) -> None:
    _JUDGE.append(pickle.loads(file.read_bytes()))  # noqa: S301 - our own parent wrote it a moment ago


def _judged(candidate: Candidate, rival: tuple[float, ...]) -> Told:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return timed(_JUDGE[0], candidate, rival)
