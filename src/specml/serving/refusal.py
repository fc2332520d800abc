"""A request that is not answered, and the HTTP status that says why."""

from __future__ import annotations

from specml.errors import SpecmlError


class Refused(SpecmlError):
    """A request that the server will not answer; told to the client as ``{"error": what}``."""

    def __init__(self, http: int, what: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(what)
        self.http = http
        self.headers = headers or {}
