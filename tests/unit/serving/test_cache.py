from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from specml.serving.app import Args
from specml.serving.cache import Cache, key
from specml.serving.request import Rows
from tests.malformed import infer, rows
from tests.unit.serving.conftest import ask

if TYPE_CHECKING:
    from pathlib import Path


def outputs(value: float, n: int = 1) -> dict[str, np.ndarray]:
    return {"y": np.full(n, value, dtype=np.float32)}


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), max_size=60), st.integers(1, 10))
def test_what_is_found_was_put_and_no_more_is_kept_than_said(asked: list[tuple[int, int]], most: int) -> None:
    cache = Cache(most, 60.0)
    for value, n in asked:
        found = cache.get((value, n))
        if found is not None:
            assert found["y"].tolist() == [value] * n
        cache.put((value, n), n, outputs(value, n))
        assert cache._rows == sum(one.rows for one in cache._kept.values()) <= most
        assert (cache.get((value, n)) is not None) == (n <= most)


def test_an_answer_is_forgotten_in_time_and_the_least_recently_asked_first() -> None:
    now = [0.0]
    cache = Cache(2, 10.0, lambda: now[0])
    for value in (1, 2):
        cache.put(value, 1, outputs(value))
    assert cache.get(1) is not None
    cache.put(3, 1, outputs(3))
    assert (cache.get(2), cache.get(1) is None, cache.get(3) is None) == (None, False, False)
    now[0] = 10.1
    assert cache.get(1) is None
    assert (cache.hits, cache.misses) == (3, 2)


def test_rows_are_told_apart_by_every_bit() -> None:
    def of(x: float, text: str) -> Any:
        other = np.empty(1, dtype=object)
        other[:] = [text]
        return key(Rows(1, {"t": other}, np.array([[x]]), ("x",)))

    assert of(0.0, "a") == of(0.0, "a")
    assert len({of(0.0, "a"), of(-0.0, "a"), of(0.0, "b"), of(np.nextafter(0, 1), "a"), of(float("nan"), "a")}) == 5


def test_the_same_rows_are_answered_without_the_model(bundle: Path) -> None:
    args = {"bundle": str(bundle), "cache": {"rows": 10, "ttl": 60.0}}
    service = Args.model_validate(args).service("r1")
    bodies = [("/predict", rows())] * 3 + [("/predict", rows(age=51))] + [("/v2/models/census/infer", infer())] * 2

    async def main() -> list[dict[str, Any]]:
        return [json.loads((await ask(service, "POST", path, body)).body) for path, body in bodies]

    answers = asyncio.run(main())
    assert service.counters.batch_rows.sum == 3  # the tensors were read closely, as columns of their own
    assert answers[0]["predictions"] == answers[2]["predictions"]
    assert answers[0]["id"] != answers[2]["id"]
    assert answers[4]["outputs"] == answers[5]["outputs"]
    told = asyncio.run(ask(service, "GET", "/metrics")).body.decode()
    assert 'specml_cache_hits_total{model="census",replica="r1"} 3\n' in told
    assert 'specml_cache_misses_total{model="census",replica="r1"} 3\n' in told
    service.close()
