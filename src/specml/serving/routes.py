"""What paths there are made of: routes, the requests that they read, and replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import orjson

from specml.serving import tabular
from specml.serving.refusal import Refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from specml.serving.batcher import Outputs
    from specml.serving.request import Rows

JSON = {"content-type": "application/json"}
REQUEST_ID = "x-request-id"
"""The header in which a caller may name a request; Ray Serve adds one where it is lacking, and answers it."""

BUNDLE = "specml-bundle"
"""The header that tells which bundle answered, where the body has no place for it."""

TYPES = {
    "/predict": tabular.TAKEN,
    "/v2/models/{model}/infer": (tabular.JSON, "application/octet-stream", ""),
}
"""Content types of a route's bodies; of others JSON."""


class Reply(NamedTuple):
    """An answer to a request."""

    status: int
    body: bytes
    headers: dict[str, str] = JSON
    rows: int = 0


class Asked(NamedTuple):
    """A request for the model that was read."""

    rows: Rows
    identity: str
    """What the request is called."""
    write: Callable[[Outputs], tuple[bytes, dict[str, str]]]
    """Body and headers of the answer; may raise ``Refused``."""


class Route(NamedTuple):
    """What answers a path: the model, between ``read`` and what that says, or ``answer`` by itself."""

    name: str
    """The path with its variable parts named: a label in the metrics."""
    method: str
    most: int = 0
    """Largest body in bytes."""
    read: Callable[[bytes, Mapping[str, str]], Asked] | None = None
    answer: Callable[[bytes, Mapping[str, str]], Awaitable[Reply]] | None = None


def refused(refusal: Refused) -> Reply:
    """A refusal as an answer."""
    return Reply(refusal.http, orjson.dumps({"error": refusal.what}), {**JSON, **refusal.headers})


def too_large(most: int) -> Refused:
    """The refusal of a body over the limit."""
    return Refused(413, f"the body is larger than {most} bytes; send the rows in parts.")


def media_type(headers: Mapping[str, str]) -> str:
    """The content type of a request, without its parameters."""
    sent = headers.get("content-type", "")
    return sent if sent == tabular.JSON else sent.partition(";")[0].strip().lower()


def check_body(route: Route, headers: Mapping[str, str]) -> None:
    """Make sure, from a head alone, that a route may read the body.

    Raises:
        Refused: 413 or 415.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Refused(415, f"the content encoding {encoding[:40]!r} is not understood; send the body as it is.")
    allowed = TYPES.get(route.name, (tabular.JSON,))
    kind = media_type(headers)
    if kind not in allowed:
        told = " or ".join(filter(None, allowed))
        raise Refused(415, f"the content type {kind[:80]!r} is not taken; send {told}.")
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 15 or int(length) > route.most):
        raise too_large(route.most)
