"""The page for people at ``/docs``: one file that asks the server for ``openapi.json`` and nobody else for anything."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

PAGE = Path(__file__).with_suffix(".html").read_bytes()


def _allowed(tag: bytes) -> str:
    """What stands in the page's only ``tag``, as a content security policy allows it."""
    inside = PAGE.partition(b"<%b>" % tag)[2].partition(b"</%b>" % tag)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside).digest()).decode()}'"


HEADERS = {
    "content-type": "text/html; charset=utf-8",
    # Nothing but the page's own script and style is run, nothing but this server asked, and no other page frames it.
    "content-security-policy": (
        f"default-src 'none'; script-src {_allowed(b'script')}; style-src {_allowed(b'style')}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
