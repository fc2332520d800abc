"""How processes end together, and how their threads share the cores."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends, however it ends (Linux: prctl(2)).

    A stage that outlives its run would overwrite the outputs of the next one. ``parent``, where known, is the
    process that started this one: it may have ended before the kernel was asked.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def begin_worker(parent: int, begin: bytes) -> None:
    """Call what ``begin`` holds, pickled by the process ``parent``, once this process ends with it.

    Unpickled here and no sooner: loading what it needs takes seconds, in which the parent may be killed.
    """
    die_with_parent(parent)
    pickle.loads(begin)()  # noqa: S301 - our own parent wrote it a moment ago


@contextlib.contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception, so that what it started is ended too.

    Raises:
        SystemExit: with 128 plus the signal's number, as a shell would tell it.
    """

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handling in before.items():
            signal.signal(number, handling)


def wait_without_spinning() -> None:
    """Have OpenMP's threads sleep at barriers, and linear algebra take one thread.

    Spinning threads slow a shared machine down several times; sums that are split by thread differ in their last
    bits from machine to machine. Takes effect where neither library is loaded yet.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
