"""A request that is not answered, and the HTTP status that says why."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from specml.errors import SpecmlError

if TYPE_CHECKING:
    from types import TracebackType


class Refused(SpecmlError):
    """A request that the server will not answer; told to the client as ``{"error": what}``."""

    def __init__(self, http: int, what: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(what)
        self.http = http
        self.headers = headers or {}


class Unshown(Exception):
    """Stands in a log for an error whose text may quote what somebody asked."""


def unshown(error: BaseException) -> tuple[type[Unshown], Unshown, TracebackType | None]:
    """What a log tells of an error: its kind and where it came from, and not its text."""
    return Unshown, Unshown(f"{type(error).__name__} (its text may quote a value)"), error.__traceback__


KINDS = {
    400: "the body can't be read.",
    403: "this key is not good for this.",
    404: "there is no such path.",
    405: "the method is not answered here.",
    413: "the request is too large.",
    415: "the content type or encoding is not taken.",
    422: "the rows do not fit the model.",
}
"""What an error tells where it is to tell nothing of the model; those of other statuses never do."""


def without_detail(refusal: Refused) -> Refused:
    """The refusal with no more than its kind."""
    return Refused(refusal.http, KINDS.get(refusal.http, refusal.what), headers=refusal.headers)


def did_you_mean(name: str, known: set[str]) -> str:
    """A hint with the known name closest to ``name``; its other names when none is near."""
    near = get_close_matches(name[:64], known, n=1)
    return f" Did you mean {near[0]!r}?" if near else f" Its columns: {short(', '.join(sorted(known)), 500)}."


def short(value: str, most: int = 80) -> str:
    """A text of at most so many characters, and a sign where it was cut."""
    return value if len(value) <= most else f"{value[:most]}…"


def json_type(value: object) -> str:
    """What JSON calls a value of this kind."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
