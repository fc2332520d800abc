"""What a live server says of itself, whoever started it; asked over HTTP."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

TOLD = {"replica", "bundle", "device", "revision"}
"""What ``/healthz`` tells."""


def connection(url: str, seconds: float) -> http.client.HTTPConnection:
    """To the server at a URL; nothing is sent yet."""
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    return kind(address.hostname or "", address.port, timeout=seconds)


def healthz(url: str) -> dict[str, Any] | None:
    """What the server at the URL says of itself; None when no specml server is there."""
    # Patient: where nobody listens the refusal comes at once, and a busy server must not be taken for a dead one.
    asked = connection(url, 30)
    try:
        asked.request("GET", "/healthz", headers={"connection": "close"})
        answer = asked.getresponse()
        told = json.loads(answer.read(65536)) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        asked.close()
    return told if isinstance(told, dict) and told.keys() >= TOLD else None


def replicas(url: str, revision: str | None) -> tuple[str, dict[str, str]] | None:
    """The bundle, and the device of each replica that answers from the revision; None when one is of another."""
    devices: dict[str, str] = {}
    bundle = ""
    since_new = 0
    # Requests go round the replicas: when no new one shows up for a while, all have answered.
    while since_new < 4 + 2 * len(devices):
        answer = healthz(url)
        if answer is None or answer["revision"] != revision:
            return None
        since_new = 0 if answer["replica"] not in devices else since_new + 1
        devices[answer["replica"]] = answer["device"]
        bundle = answer["bundle"]
    return bundle, devices


def reason(told: Iterable[str]) -> str:
    """What Ray Serve's messages say, from the last exception on: the one that a replica ended with."""
    lines = [line.strip() for text in told for line in text.splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if "Error" in line or "Failed" in line]
    found = lines[errors[-1] : errors[-1] + 3] if errors else lines[-1:]
    return " ".join(found)[:400] or "the application did not start"
