"""What somebody asked stands in no log, whatever goes wrong with it."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from specml.serving import tabular
from specml.serving.app import Args
from tests.malformed import GOOD, INFER, PREDICT, rows
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CANARY = "c4n4ry-of-a-person"
BODY = rows(workclass=CANARY)
CSV = f"age,member,workclass\n1,true,{CANARY}\n".encode()


def fails(*_: Any, **__: Any) -> Any:
    raise ValueError(f"could not convert string to float: {CANARY!r}")


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG)
    # Ray's logger hands nothing on.
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_an_error_inside_is_told_by_kind_and_place(
    bundle: Path, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Args.model_validate({"bundle": str(bundle)}).service("r1")
    monkeypatch.setattr(service._batcher, "_run", fails)
    monkeypatch.setattr(tabular, "read_csv", fails)
    for body, kind, status in ((BODY, "application/json", 422), (CSV, "text/csv", 500)):
        log.clear()
        answer = asyncio.run(ask(service, "POST", "/predict", body, {"content-type": kind}))
        assert answer.status == status
        assert CANARY not in answer.body.decode()
        assert CANARY not in log.text
        assert "ValueError" in log.text
        assert "in fails" in log.text
    service.close()


def test_what_is_refused_is_not_logged(bundle: Path, log: pytest.LogCaptureFixture) -> None:
    service = Args.model_validate({"bundle": str(bundle), "max_rows": 50}).service("r1")
    octets = {"content-type": "application/octet-stream", "x-request-id": CANARY, "authorization": CANARY}
    bodies = [body for body, _, _ in PREDICT.values()]
    bodies += [BODY, rows(age=CANARY), rows(**{CANARY: 1}), json.dumps({CANARY: [GOOD]}).encode()]
    log.clear()
    for body in bodies:
        asyncio.run(ask(service, "POST", "/predict", body))
        asyncio.run(ask(service, "POST", "/predict", body, {"content-type": "text/csv"}))
    for body, headers, _ in INFER.values():
        asyncio.run(ask(service, "POST", "/v2/models/census/infer", body, {**octets, **headers}))
    asyncio.run(ask(service, "GET", f"/{CANARY}"))
    assert not [record for record in log.records if record.levelno >= logging.INFO and record.name != "asyncio"]
    assert CANARY not in log.text
    service.close()
