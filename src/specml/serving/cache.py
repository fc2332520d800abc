"""Answers that were given before to exactly the same rows."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from specml.serving.request import Rows

    Outputs = dict[str, np.ndarray]


class _Kept(NamedTuple):
    rows: int
    until: float
    outputs: Outputs


class Cache:
    """The outputs of requests by all values of their rows; the least recently asked go first.

    It belongs to one bundle, and so it need not tell bundles apart. Whether a request is captured, and what it is
    called, is not its matter: it stands in the place of the model alone.

    Args:
        rows: most rows that are kept.
        ttl: seconds after which an answer is forgotten.
    """

    def __init__(self, rows: int, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.hits = self.misses = 0
        """Requests that were answered by it, and that were not."""
        self._most, self._ttl, self._clock = rows, ttl, clock
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._rows = 0

    def get(self, key: Hashable) -> Outputs | None:
        """What was kept by the key of some rows."""
        found = self._kept.get(key)
        if found is None or found.until < self._clock():
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found.outputs

    def put(self, key: Hashable, rows: int, outputs: Outputs) -> None:
        """Keep the outputs of some rows."""
        if rows > self._most:
            return
        # What was given out are views of a whole batch.
        kept = {name: array.copy() for name, array in outputs.items()}
        old = self._kept.pop(key, None)
        self._rows += rows - (old.rows if old is not None else 0)
        self._kept[key] = _Kept(rows, self._clock() + self._ttl, kept)
        while self._rows > self._most:
            self._rows -= self._kept.popitem(last=False)[1].rows


def key(rows: Rows) -> Hashable:
    """All values of some rows, to the bit."""
    if rows.block is not None:
        block: Hashable = (rows.blocked, rows.block.tobytes())
        columns = rows.others
    else:
        block, columns = None, rows.columns
    return rows.n, block, tuple((name, _bytes(columns[name])) for name in sorted(columns))


def _bytes(array: np.ndarray) -> Hashable:
    return tuple(array.tolist()) if array.dtype == object else array.tobytes()
