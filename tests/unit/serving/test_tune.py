"""A service goes on with other knobs: for what comes from then on, with nothing lost that was learnt or asked."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

from specml.serving.app import Args
from tests.bundles import regression_bundle
from tests.malformed import GOOD, rows, tensors
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from specml.serving.service import Service


@pytest.fixture
def args(bundle: Path) -> Args:
    return Args(bundle=str(bundle), max_rows=2)


@pytest.fixture
def service(args: Args) -> Iterator[Service]:
    made = args.service("r1")
    yield made
    made.close()


async def status(service: Service, path: str = "/predict", body: bytes = b"") -> int:
    return (await ask(service, "POST", path, body or rows())).status


def three() -> dict[str, Any]:
    """Tensors of three rows."""
    one = tensors()
    return {**one, "inputs": [{**each, "shape": [3, 1], "data": each["data"] * 3} for each in one["inputs"]]}


def test_more_rows_are_taken_on_every_path_and_told(args: Args, service: Service) -> None:
    async def check() -> None:
        people = json.dumps({"rows": [GOOD] * 3}).encode()
        both = (("/predict", people), ("/v2/models/census/infer", json.dumps(three()).encode()))
        assert [await status(service, *each) for each in both] == [413, 413]
        args.with_knobs({"max_rows": 3, "revision": "second"}).tune(service)
        assert [await status(service, *each) for each in both] == [200, 200]
        assert b'"maxItems":3' in (await ask(service, "GET", "/openapi.json")).body
        assert json.loads((await ask(service, "GET", "/healthz")).body)["revision"] == "second"
        args.with_knobs({"max_rows": 2}).tune(service)
        assert [await status(service, *each) for each in both] == [413, 413]

    asyncio.run(check())


def test_routes_and_headers_that_are_remembered_go_by_it_too(tmp_path: Path) -> None:
    """As connections and the reader of binary requests remember them."""
    regression_bundle(tmp_path / "b")
    args = Args(bundle=str(tmp_path / "b"), max_rows=2)
    service = args.service("r1")
    tensor = {"name": "area", "datatype": "FP64", "shape": [3, 1]}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 24}}]}).encode()
    binary = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    plain = json.dumps({"inputs": [{**tensor, "data": [50.0] * 3}]}).encode()
    asked = ((binary, head + np.full(3, 50.0).tobytes()), ({"content-type": "application/json"}, plain))
    path = f"/v2/models/{service.contract.name}/infer"
    routes = [service.admit("POST", path, headers) for headers, _ in asked]

    async def check() -> None:
        for max_rows, expected in ((2, 413), (3, 200), (3, 200), (2, 413), (4, 200)):
            args.with_knobs({"max_rows": max_rows}).tune(service)
            for route, (headers, body) in zip(routes, asked, strict=True):
                assert (await service.answer(route, body, headers)).status == expected

    asyncio.run(check())
    service.close()


def test_what_is_on_its_way_goes_on_as_it_came(args: Args, service: Service) -> None:
    async def check() -> None:
        args.with_knobs({"batching": {"max_wait": 0.3}}).tune(service)
        waiting = asyncio.create_task(status(service))
        await asyncio.sleep(0.05)
        args.with_knobs({"timeout": 0.01, "batching": {"max_wait": 0.3}}).tune(service)
        assert await waiting == 200
        assert await status(service) == 504
        args.with_knobs({}).tune(service)
        assert await status(service) == 200

    asyncio.run(check())
    assert service.counters.requests == {("/predict", 200): 2, ("/predict", 504): 1}


def test_the_objective_and_the_queue_hold_for_what_comes(args: Args, service: Service) -> None:
    async def check() -> None:
        busy = {"batching": {"max_wait": 0.2}}
        args.with_knobs(busy).tune(service)
        service._batcher.round.fixed = 0.5  # seconds that a batch is held to take
        first = asyncio.create_task(status(service))
        await asyncio.sleep(0.01)
        assert service.waiting_batches > 0
        args.with_knobs({**busy, "slo": 0.1}).tune(service)
        refused = await ask(service, "POST", "/predict", rows())
        assert refused.status == 429
        assert b"this server promises 0.1 s" in refused.body
        args.with_knobs({"batching": {"max_wait": 0.2, "max_queue": 1}}).tune(service)
        refused = await ask(service, "POST", "/predict", rows())
        assert (refused.status, b"at most 1 may" in refused.body) == (429, True)
        assert await first == 200

    asyncio.run(check())


def test_a_limit_that_stays_counts_on_and_another_begins_anew(args: Args, service: Service) -> None:
    async def check() -> None:
        slow: dict[str, Any] = {"rate_limit": {"requests": 0.001, "burst": 1000.0}}
        args.with_knobs(slow).tune(service)
        assert [await status(service) for _ in range(2)] == [200, 429]
        args.with_knobs({**slow, "slo": 1.0}).tune(service)
        assert await status(service) == 429
        args.with_knobs({}).tune(service)
        assert await status(service) == 200
        args.with_knobs(slow).tune(service)
        assert [await status(service) for _ in range(2)] == [200, 429]

    asyncio.run(check())


def test_what_is_no_knob_changes_nothing(args: Args, service: Service) -> None:
    for wrong in ({"slow": 1.0}, {"slo": -1.0, "timeout": 1.0}, {"batching": {"wait": 1.0}}):
        with pytest.raises(ValidationError):
            args.with_knobs(wrong)
    assert service.timeout == args.timeout
