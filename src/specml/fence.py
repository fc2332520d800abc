"""The number of the newest run: an older run's stage that somehow lived on may not write beside it.

Each run takes the next number (a fencing token). Its stages find it in their environment, and ask, right before a
file takes its final name, whether it is still the newest. Who asks and who raises it exclude each other by ``flock``.
A stage without a number (plain ``dvc repro``) is guarded by DVC's own locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from specml.errors import StageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILE = ".specml/fence"
VARIABLE = "SPECML_RUN"


def next_number(folder: Path) -> int:
    """Take the next number; from here on, stages with an older one write nothing."""
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        number = _number(handle) + 1
        os.pwrite(handle, f"{number:020d}\n".encode(), 0)  # as long as the last: never torn
    finally:
        os.close(handle)
    return number


@contextlib.contextmanager
def newest(folder: Path, number: str) -> Iterator[None]:
    """Hold off newer runs for the block.

    Raises:
        StageFailed: there is a newer run than ``number``.
    """
    handle = os.open(folder / FILE, os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        current = _number(handle)
        if str(current) != number:
            raise StageFailed(
                f"this stage belongs to run {number}; the newest is {current}. It writes nothing.", where=str(folder)
            )
        yield
    finally:
        os.close(handle)


def _number(handle: int) -> int:
    text = os.pread(handle, 20, 0).decode(errors="replace")
    return int(text) if text.isdecimal() else 0
