from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from specml.serving.app import Args, Http
from tests.bundles import binary_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from specml.serving.service import Service


class Asked:
    """A request through the ASGI application, as a server would carry it."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


async def ask(
    service: Service, method: str, path: str, body: bytes | list[bytes] = b"", headers: dict[str, str] | None = None
) -> Asked:
    """One request; a list is a body that arrives in parts."""
    parts = [body] if isinstance(body, bytes) else list(body)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not parts:  # the client stays
            await asyncio.Event().wait()
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    told = {"content-type": "application/json"} if headers is None else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in told.items()],
    }
    await Http(service)(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Asked(sent[0]["status"], answered, b"".join(message["body"] for message in sent[1:]))


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    binary_bundle(folder)
    return folder


@pytest.fixture(scope="session")
def service(bundle: Path) -> Iterator[Service]:
    made = Args.model_validate({"bundle": str(bundle), "max_rows": 50, "max_body": 10_000}).service("r1")
    yield made
    made.close()


@pytest.fixture
def post(service: Service) -> Callable[..., Asked]:
    def one(path: str, body: bytes | list[bytes], headers: dict[str, str] | None = None) -> Asked:
        return asyncio.run(ask(service, "POST", path, body, headers))

    return one


@pytest.fixture
def get(service: Service) -> Callable[..., Asked]:
    return lambda path: asyncio.run(ask(service, "GET", path))
