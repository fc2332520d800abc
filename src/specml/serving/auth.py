"""Bearer tokens: the server knows only their salted digests."""

from __future__ import annotations

import hashlib
import hmac

from specml.serving.refusal import Refused

OPEN = frozenset({"/healthz", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: they tell whether the server is up, and nothing about the rows."""


class Tokens:
    """The accepted tokens, as ``salt$sha256(salt + token)`` in hex."""

    def __init__(self, digests: tuple[str, ...]) -> None:
        self._digests = tuple(tuple(digest.split("$", 1)) for digest in digests)

    def check(self, path: str, authorization: str | None) -> None:
        """Let the request pass, or raise.

        Raises:
            Refused: 401; the header is absent or names no accepted token.
        """
        if path in OPEN:
            return
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and token and self._accepts(token.strip()):
            return
        raise Refused(
            401,
            "this server needs a valid token: send the header 'Authorization: Bearer TOKEN'.",
            headers={"www-authenticate": "Bearer"},
        )

    def _accepts(self, token: str) -> bool:
        # Every digest is compared, each in constant time: how long it takes tells nothing about a token.
        found = False
        for salt, digest in self._digests:
            found |= hmac.compare_digest(salted(token, salt), digest)
        return found


def salted(token: str, salt: str) -> str:
    """The hex digest by which a token is known."""
    return hashlib.sha256(f"{salt}{token}".encode("utf-8", "surrogateescape")).hexdigest()
