"""What the job of a cluster tells ``specml deploy``: lines of its log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from specml.errors import DataCheckFailed, DeployFailed, NotEnoughData, SpecmlError

MARK = "specml-batch:"
ERRORS = {one.status: one for one in (SpecmlError, DataCheckFailed, NotEnoughData, DeployFailed)}


def line(event: dict[str, Any]) -> str:
    """``{"said": …}``, for a person; or how it ended: ``{"failed": …}`` or ``{"done": true}``."""
    return f"{MARK}{json.dumps(event)}"


def events(log: str) -> Iterator[dict[str, Any]]:
    """Those in a log, whose last line may be torn."""
    for one in log.split("\n")[:-1]:
        if one.startswith(MARK):
            yield dict(json.loads(one.removeprefix(MARK)))


def told(error: SpecmlError) -> dict[str, Any]:
    """An error as JSON values."""
    return {"status": error.status, "what": error.what, "hint": error.hint, "where": error.where}


def error_of(told: dict[str, Any]) -> SpecmlError:
    """The error that ``told`` was given."""
    kind = ERRORS.get(told["status"], SpecmlError)
    error = kind(told["what"], hint=told["hint"], where=told["where"])
    error.status = told["status"]
    return error
