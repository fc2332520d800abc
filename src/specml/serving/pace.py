"""What a call of the model takes: seconds = a + b·rows, times how busy the machine is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SIZES = (1, 8, 64, 512)
"""Rows of the calls that are timed before the first request."""
REPEATS = 3
"""Calls of each size; the fastest counts, as nothing but the machine makes a call slower."""
ENOUGH = 0.5
"""Seconds after which no more is timed: a slow model has told what it is."""
SHARE = 0.1
"""Weight of the latest call in how busy the machine is: some twenty calls are remembered."""
ONE_STEP = 2.0
"""One call makes the machine no more than so many times as busy, or as idle, as it was held to be: a pause of the
machine in the middle of a call says nothing about the next."""
BOUNDS = 0.25, 64.0
"""How far from idle, as timed before the first request, the machine is ever held to be."""


class Pace:
    """The seconds of a call by its rows.

    Args:
        fixed: ``a``, seconds of any call.
        per_row: ``b``, seconds of each row more.
    """

    def __init__(self, fixed: float = 0.0, per_row: float = 0.0) -> None:
        self.fixed, self.per_row = fixed, per_row
        self.busy = 1.0
        """How many times as long calls take now."""

    @classmethod
    def timed(cls, call: Callable[[int], object], most: int, sizes: Iterable[int] = SIZES) -> Pace:
        """The pace of ``call``, which runs as many rows as it is told, ``most`` at most."""
        found: list[tuple[int, float]] = []
        began = time.perf_counter()
        for size in sorted({min(size, most) for size in (*sizes, most)}):
            took = []
            for _ in range(REPEATS):
                before = time.perf_counter()
                call(size)
                took.append(time.perf_counter() - before)
                if time.perf_counter() - began > ENOUGH:
                    break
            found.append((size, min(took)))
            if time.perf_counter() - began > ENOUGH:
                break
        return cls(*fitted(found))

    def seconds(self, rows: int, calls: int = 1) -> float:
        """What ``rows`` rows take, in so many calls."""
        return self.busy * (calls * self.fixed + rows * self.per_row)

    def rows_within(self, seconds: float) -> float:
        """How many rows one call can have to end within ``seconds``; infinite where a row takes nothing."""
        left = seconds / self.busy - self.fixed
        return max(0.0, left) / self.per_row if self.per_row > 0 else float("inf")

    def seen(self, rows: int, seconds: float) -> None:
        """Learn from a call."""
        expected = self.fixed + rows * self.per_row
        if expected <= 0:
            return
        ratio = min(max(seconds / expected, self.busy / ONE_STEP), self.busy * ONE_STEP)
        low, high = BOUNDS
        self.busy = min(max(self.busy + SHARE * (ratio - self.busy), low), high)


def fitted(found: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """``a`` and ``b``, both at least 0, of the line through (rows, seconds), by least squares of relative errors."""
    rows, seconds = np.array(found, dtype=np.float64).reshape(-1, 2).T
    if len(rows) == 1:
        return float(seconds[0]), 0.0
    design = np.stack([1 / seconds, rows / seconds], axis=1)
    a, b = np.linalg.lstsq(design, np.ones(len(rows)), rcond=None)[0]
    if a < 0:
        a, b = 0.0, float((seconds / rows).mean())
    if b < 0:
        a, b = float(seconds.mean()), 0.0
    return float(a), float(b)
