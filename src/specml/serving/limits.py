"""How often somebody may ask, and by which name of the server."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specml.serving.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBERED = 64
"""Most values of the header ``Host`` that are remembered as allowed."""


class Bucket:
    """Lets through ``rate`` a second in the long run, and ``burst`` seconds' worth of it at once.

    A token bucket that may fall below zero: what was let through is paid for afterwards, so that one large request is
    answered and the next one waits for as long as it was worth.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate, self._most, self._clock = rate, rate * burst, clock
        self._level, self._at = self._most, clock()

    def wait(self) -> float:
        """Seconds until something is let through; 0 now."""
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(1.0, self._most) - self._level) / self._rate)

    def take(self, amount: int) -> None:
        """Let ``amount`` through."""
        self._level -= amount


@dataclass(frozen=True)
class Rate:
    """What each key may ask of one replica; without keys, everybody together."""

    requests: float | None = None
    """A second."""
    rows: float | None = None
    """A second."""
    burst: float = 1.0
    """Seconds' worth of either at once."""


class Limiter:
    """Counts what each key asks.

    Args:
        clock: seconds, from any start.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._requests: dict[str, Bucket] = {}
        self._rows: dict[str, Bucket] = {}

    def request(self, key: str) -> None:
        """Count a request, whose rows are not known yet.

        Raises:
            Refused: 429; the key has asked too much already.
        """
        buckets = self._of(key)
        wait = max((bucket.wait() for bucket, _ in buckets), default=0.0)
        if wait:
            what = " and ".join(f"{rate:g} {unit}" for _, (rate, unit) in buckets)
            raise Refused(
                429, f"more than {what} a second; come back later.", headers={"retry-after": str(math.ceil(wait))}
            )
        if key in self._requests:
            self._requests[key].take(1)

    def rows(self, key: str, rows: int) -> None:
        """Count the rows of a request that was let through."""
        if key in self._rows:
            self._rows[key].take(rows)

    def _of(self, key: str) -> list[tuple[Bucket, tuple[float, str]]]:
        told = []
        for unit, rate, kept in (
            ("requests", self.rate.requests, self._requests),
            ("rows", self.rate.rows, self._rows),
        ):
            if rate is not None:
                if key not in kept:  # names of keys are few, and the spec's
                    kept[key] = Bucket(rate, self.rate.burst, self._clock)
                told.append((kept[key], (rate, unit)))
        return told


class Hosts:
    """The names by which the server may be asked.

    A page in a browser can have its own name lead to this machine (DNS rebinding) and so read what answers here; its
    requests then still tell that name.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = frozenset(name.lower().strip("[]") for name in names)
        self._seen: set[str] = set()

    def check(self, host: str | None) -> None:
        """Let the request pass, or raise; the port doesn't count, and what tells no host is no browser.

        Raises:
            Refused: 421; the header names another host.
        """
        if not self._names or host is None or host in self._seen:
            return
        if name_of(host) not in self._names:
            raise Refused(421, "this server does not answer to the host that the request names: see serving.hosts.")
        if len(self._seen) < REMEMBERED:
            self._seen.add(host)


def name_of(host: str) -> str:
    """The name or address in a header ``Host``, without port and brackets, in lower case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")
