"""Asks a live server for predictions, batch by batch over one connection."""

from __future__ import annotations

import http.client
import json
import time
from typing import TYPE_CHECKING, Any

from specml.data import PastRows
from specml.errors import SpecmlError
from specml.liveness import connection
from specml.serving.history import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from specml.data import Kind

MOST_ROWS = 500
"""Rows in one request: enough to be fast, few enough to leave room for others."""

TRIES = 60


class Client:
    """A connection to the server at ``url``, with a bearer ``token`` if it asks for one."""

    def __init__(self, url: str, token: str = "") -> None:
        self._url = url
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
        self._connection = connection(url, 120)

    def columns(self) -> tuple[dict[str, Kind], int, PastRows | None]:
        """The model's columns by name with their kinds, the most rows that one request may have, and its history."""
        return told(self._ask("GET", "/openapi.json"))

    def predict(self, rows: list[dict[str, Any]], most: int) -> Iterator[dict[str, Any]]:
        """A prediction for each row, in order, and the ``id`` by which late labels find it.

        Raises:
            SpecmlError: the server refuses rows, or goes away.
        """
        size = min(MOST_ROWS, most)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            where = f"rows {start + 1} to {start + len(part)}"
            answer = self._ask("POST", "/predict", json.dumps({"rows": part}).encode(), where)
            for place, prediction in enumerate(answer["predictions"]):
                yield {"id": f"{answer['id']}-{place}", **prediction}

    def explain(self, question: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to a question to ``/explain``.

        Raises:
            SpecmlError: the server refuses it, or goes away.
        """
        return self._ask("POST", "/explain", json.dumps(question).encode())

    def _ask(self, method: str, path: str, body: bytes | None = None, where: str = "") -> dict[str, Any]:
        for _ in range(TRIES):
            try:
                self._connection.request(method, path, body, self._headers)
                answer = self._connection.getresponse()
                raw = answer.read()
            except (OSError, http.client.HTTPException):
                # Predicting twice is harmless: a replica may have gone while it was asked.
                self._connection.close()
                time.sleep(0.5)
                continue
            if answer.status in (429, 503, 504):
                time.sleep(min(10.0, float(answer.headers.get("retry-after", "1"))))
                continue
            found = _read(raw)
            if answer.status != 200:
                raise SpecmlError(
                    f"the server refuses ({answer.status}): {found.get('error', 'no reason')}", where=where
                )
            return found
        raise SpecmlError(
            f"the server at {self._url} does not answer.", where=where, hint="`specml status` says what is live."
        )


def told(document: dict[str, Any]) -> tuple[dict[str, Kind], int, PastRows | None]:
    """What an OpenAPI document of ours tells of ``/predict``."""
    asked = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    rows = asked.get("oneOf", [asked])[0]["properties"]["rows"]  # servers of before have one form
    schemas = dict(rows["items"]["properties"])
    history = schemas.pop(KEY)["x-history"] if "x-history" in schemas.get(KEY, {}) else None
    kinds = {name: _kind(schema) for name, schema in schemas.items() if "type" in schema}  # others only place a row
    return kinds, rows["maxItems"], PastRows.model_validate(history) if history else None


def _read(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _kind(schema: dict[str, Any]) -> Kind:
    types: str | list[str] = schema["type"]
    if schema.get("format") == "date-time":
        return "datetime"
    if "string" in types:
        return "categorical"
    return "boolean" if "boolean" in types else "numeric"
