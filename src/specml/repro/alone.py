"""One run at a time in a project."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Any

from specml import fence
from specml.errors import SpecmlError
from specml.files import take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = ".specml/run.lock"


@contextlib.contextmanager
def alone(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the project: a second run would change the parameters that the first is judged by.

    The lock is the kernel's (``flock``): it ends with the last process of the run that holds it, however they end.
    Yields the run's number (see ``fence``).

    Args:
        folder: the project.
        wait: for a run that is at work, saying so on standard error.

    Raises:
        SpecmlError: another run holds it, and ``wait`` is false; it is named.
    """
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = f"another run is at work here ({_named(path)})."
            if not wait:
                hint = "Wait until it has ended, or stop it."
                raise SpecmlError(told, where=str(folder), hint=hint) from None
            sys.stderr.write(f"{told} Waiting until it has ended.\n")
            take(lock)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%H:%M:%S on %Y-%m-%d")}
        lock.truncate(0)
        lock.write(json.dumps(holder))
        lock.flush()
        yield fence.next_number(folder)


def at_work(folder: Path) -> str:
    """Who holds the project now, by name; empty when nobody does."""
    path = folder / FILE
    if not path.exists():
        return ""
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _named(path)
    return ""


def _named(path: Path) -> str:
    text = path.read_text()
    try:
        holder: Any = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, TypeError, KeyError):
        return f"process {text.strip() or 'unknown'}"
