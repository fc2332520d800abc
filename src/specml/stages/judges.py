"""Where the trials of a generation are judged: here, or in processes of their own."""

from __future__ import annotations

import os
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

from specml.errors import StageFailed
from specml.processes import begin_worker
from specml.stages.work import threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from specml.kinds import Candidate
    from specml.stages.cross_validation import Judged


class Judges:
    """Judges settings: in processes of their own where there are threads for more than one, else here."""

    def __init__(self, judge: Callable[..., Judged], most: int) -> None:
        self._judge = judge
        self._workers = min(threads(), most)
        self._pool: Any = None

    def __enter__(self) -> Judges:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __call__(self, candidates: dict[int, Candidate]) -> Iterator[tuple[int, Judged]]:
        """Judge each candidate; yields them as they end."""
        if self._workers == 1 or not candidates:
            for number, candidate in candidates.items():
                yield number, self._judge(candidate=candidate, threads=1)
            return
        from concurrent.futures import ProcessPoolExecutor, as_completed
        from concurrent.futures.process import BrokenProcessPool
        from multiprocessing import get_context

        if self._pool is None:
            share = threads() // self._workers
            begin = pickle.dumps(partial(_begin, partial(self._judge, threads=share)))
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), begin_worker, (os.getpid(), begin))
        waiting = {self._pool.submit(_judged, candidate): number for number, candidate in candidates.items()}
        for future in as_completed(waiting):
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool:
                hint = f"It may have taken too much memory: set SPECML_THREADS below {threads()}."
                raise StageFailed("a process that judged a trial was killed.", where="search", hint=hint) from None


_JUDGE: list[Callable[..., Judged]] = []
"""In a process of ``Judges``: what it was begun with."""


def _begin(judge: Callable[..., Judged]) -> None:
    _JUDGE.append(judge)


def _judged(candidate: Candidate) -> Judged:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return _JUDGE[0](candidate=candidate)
