"""Who may ask: bearer keys by name, of which the server knows only salted digests."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from specml.serving.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SCOPES = ("predict", "explain", "feedback", "describe", "metrics")
"""What a key may be good for."""

OPEN = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready", "/docs"})
"""Paths that need no key: they tell whether the server is up, and nothing about the rows. The page for people is the
same for every model; what it shows it asks for with the key that is typed in."""

_SCOPE = {
    "/predict": "predict",
    "/v2/models/{model}/infer": "predict",
    "/explain": "explain",
    "/feedback": "feedback",
    "/metrics": "metrics",
}
_ANY = frozenset({*OPEN, "/v2/models/{model}/ready"})


def scope(route: str) -> str:
    """The scope that a route needs; empty when any key will do."""
    return "" if route in _ANY else _SCOPE.get(route, "describe")


@dataclass(frozen=True)
class Key:
    """One key, or several that mean the same while one takes the place of the other."""

    name: str
    digests: tuple[str, ...]
    """``salt$sha256(salt + key)`` in hex."""
    scopes: frozenset[str] = frozenset(SCOPES)
    until: float | None = None
    """Seconds since 1970 from which it is refused."""


class Keys:
    """The accepted keys.

    Args:
        clock: the time, in seconds since 1970.
    """

    def __init__(self, keys: Iterable[Key], clock: Callable[[], float] = time.time) -> None:
        self._digests = [(salt, digest, key) for key in keys for salt, _, digest in map(_parts, key.digests)]
        self._clock = clock

    def named(self, authorization: str | None) -> Key:
        """The key that a request carries in its header.

        Raises:
            Refused: 401; the header is absent, or names no key that is accepted now.
        """
        kind, _, token = (authorization or "").partition(" ")
        key = self._found(token.strip()) if kind.lower() == "bearer" and token else None
        if key is not None and (key.until is None or self._clock() < key.until):
            return key
        wrong = "this key has expired: ask for a new one." if key is not None else "this server needs a valid key: "
        how = "" if key is not None else "send the header 'Authorization: Bearer KEY'."
        raise Refused(401, wrong + how, headers={"www-authenticate": "Bearer"})

    def _found(self, token: str) -> Key | None:
        # Every digest is compared, each in constant time: how long it takes tells nothing about a key.
        found, hashed = None, dict[str, str]()
        for salt, digest, key in self._digests:
            if salt not in hashed:
                hashed[salt] = salted(token, salt)
            if hmac.compare_digest(hashed[salt], digest):
                found = key
        return found


def _parts(digest: str) -> tuple[str, str, str]:
    return digest.partition("$")


def allow(key: Key, route: str) -> None:
    """Make sure that the key is good for the route.

    Raises:
        Refused: 403; the message names the scope that it lacks.
    """
    if (wanted := scope(route)) and wanted not in key.scopes:
        told = f'Bearer error="insufficient_scope", scope="{wanted}"'  # RFC 6750, section 3.1
        raise Refused(403, f"the key {key.name!r} lacks the scope {wanted!r}.", headers={"www-authenticate": told})


def end_of(day: str) -> float:
    """When the day (UTC, as ``2026-12-31``) is over, in seconds since 1970."""
    return (datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)).timestamp()


def salted(token: str, salt: str) -> str:
    """The hex digest by which a key is known."""
    return hashlib.sha256(f"{salt}{token}".encode("utf-8", "surrogateescape")).hexdigest()
