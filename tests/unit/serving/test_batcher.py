from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.serving.batcher import Batcher
from specml.serving.counters import Counters
from specml.serving.pace import Pace
from specml.serving.refusal import Refused
from specml.serving.request import Rows

if TYPE_CHECKING:
    from collections.abc import Callable

POISON = -1.0


def rows(values: list[float]) -> Rows:
    return Rows(len(values), {"x": np.array(values)})


class Model:
    """Doubles x; remembers every batch; fails on a batch that holds POISON."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.entered.set()
        assert self.gate.wait(10)
        self.batches.append(columns["x"].tolist())
        if POISON in columns["x"]:
            raise ValueError("poison")
        return {"y": columns["x"] * 2}


def with_batcher(test: Callable[[Batcher, Model], object], **options: object) -> Model:
    """Run an async test with a batcher over a model."""
    model = Model()

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(model, executor, Counters(), **{"max_batch_size": 8, "max_queue": 10_000, **options})  # type: ignore[arg-type]
            await test(batcher, model)  # type: ignore[misc]

    asyncio.run(main())
    return model


@settings(deadline=None, max_examples=200)
@given(
    requests=st.lists(st.tuples(st.integers(1, 30), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40),
    max_batch_size=st.integers(1, 16),
    max_wait=st.sampled_from([0.0, 0.001]),
    pace=st.sampled_from([1.0, 0.001, 1e-6]),
)
def test_nothing_is_lost_doubled_or_reordered(
    requests: list[tuple[int, bool, int]], max_batch_size: int, max_wait: float, pace: float
) -> None:
    """Requests of any size, some poisoned, some arriving later: each gets its own rows back, or fails alone."""
    count = 0
    sent: list[list[float]] = []
    for size, poisoned, _ in requests:
        values = [float(count + i) for i in range(size)]
        count += size
        sent.append([*values[:-1], POISON] if poisoned else values)

    async def one(batcher: Batcher, values: list[float], late: int) -> object:
        for _ in range(late):
            await asyncio.sleep(0)
        try:
            return (await batcher.submit(rows(values)))["y"].tolist()
        except Refused as refusal:
            return refusal.http

    async def test(batcher: Batcher, model: Model) -> None:
        answers = await asyncio.gather(
            *(one(batcher, values, late) for values, (_, _, late) in zip(sent, requests, strict=True))
        )
        for values, answer in zip(sent, answers, strict=True):
            assert answer == (422 if POISON in values else [2 * value for value in values])
        assert batcher.waiting_rows == 0

    model = with_batcher(test, max_batch_size=max_batch_size, max_wait=max_wait, pace=Pace(pace))
    assert max(map(len, model.batches)) <= max_batch_size
    clean = [batch for batch in model.batches if POISON not in batch]
    if not any(poisoned for _, poisoned, _ in requests):
        assert sorted(value for batch in clean for value in batch) == [float(i) for i in range(count)]


async def behind_a_long_call(batcher: Batcher, model: Model, requests: int) -> tuple[Any, list[Any]]:
    """A row whose call goes on until the gate opens; and requests of three rows that come meanwhile, told 1, 2, …"""
    model.gate.clear()
    first = asyncio.create_task(batcher.submit(rows([0.0])))
    await asyncio.to_thread(model.entered.wait, 10)
    rest = [asyncio.create_task(batcher.submit(rows([float(i)] * 3))) for i in range(1, requests + 1)]
    await asyncio.sleep(0.01)
    return first, rest


def test_first_come_is_first_served_and_what_waits_is_batched() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        first, rest = await behind_a_long_call(batcher, model, 5)
        assert batcher.waiting_rows == 15
        model.gate.set()
        await asyncio.gather(first, *rest)

    model = with_batcher(test)
    assert model.batches == [[0.0], [1, 1, 1, 2, 2, 2, 3, 3], [3, 4, 4, 4, 5, 5, 5]]


def test_an_idle_model_does_not_wait() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        for i in range(5):
            await asyncio.wait_for(batcher.submit(rows([float(i)])), 5)

    assert with_batcher(test).batches == [[0.0], [1.0], [2.0], [3.0], [4.0]]


def test_a_wait_ends_when_the_batch_is_full() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        await asyncio.wait_for(asyncio.gather(*(batcher.submit(rows([float(i)])) for i in range(8))), 5)

    assert len(with_batcher(test, max_wait=3600).batches) == 1


def test_a_full_queue_says_so_and_recovers() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher.submit(rows([0.0])))
        await asyncio.to_thread(model.entered.wait, 10)
        waiting = asyncio.create_task(batcher.submit(rows([1.0] * 10)))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refusal:
            await batcher.submit(rows([2.0]))
        assert refusal.value.http == 429
        assert int(refusal.value.headers["retry-after"]) >= 1
        model.gate.set()
        await asyncio.gather(running, waiting)
        assert (await batcher.submit(rows([3.0])))["y"].tolist() == [6.0]

    with_batcher(test, max_queue=10)


def test_a_request_larger_than_the_queue_is_answered_when_nothing_waits() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        values = [float(i) for i in range(100)]
        assert (await batcher.submit(rows(values)))["y"].tolist() == [2 * value for value in values]

    assert max(map(len, with_batcher(test, max_queue=10).batches)) == 8


def test_a_client_that_goes_frees_its_place() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher.submit(rows([0.0])))
        await asyncio.to_thread(model.entered.wait, 10)
        gone = asyncio.create_task(batcher.submit(rows([1.0] * 5)))
        stays = asyncio.create_task(batcher.submit(rows([2.0])))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert batcher.waiting_rows == 1
        model.gate.set()
        await asyncio.gather(running, stays)

    assert with_batcher(test).batches == [[0.0], [2.0]]


def test_when_the_replica_goes_down_nobody_waits_for_ever() -> None:
    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        batcher = Batcher(Model(), executor, Counters(), max_batch_size=8, max_queue=100)
        executor.shutdown()
        with pytest.raises(Refused) as refusal:
            await asyncio.wait_for(batcher.submit(rows([1.0])), 5)
        assert refusal.value.http == 503

    asyncio.run(main())


def test_who_would_wait_for_too_long_is_told_for_how_long() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        running = asyncio.create_task(batcher.submit(rows([0.0])))
        await asyncio.to_thread(model.entered.wait, 10)
        let_in: list[asyncio.Task[object]] = []

        async def on_and_on() -> None:
            while True:
                batcher.refuse_late()
                let_in.append(asyncio.create_task(batcher.submit(rows([1.0] * 4))))
                await asyncio.sleep(0)

        with pytest.raises(Refused) as refusal:
            await on_and_on()
        assert refusal.value.http == 429
        # A row takes 0.1 s, a call of 13 at most 0.2 s more, and half as much again if others want the processor; the
        # one that runs has 0.3 s left. One call is in time, a second is not, however few are in it: it will be full.
        assert 4 * len(let_in) == 16
        assert refusal.value.headers["retry-after"] == "5"
        model.gate.set()
        await asyncio.gather(running, *let_in)

    model = with_batcher(test, max_batch_size=64, max_queue=None, slo=6.0, pace=Pace(0.2, 0.1))  # type: ignore[arg-type]
    assert 10 <= max(map(len, model.batches)) <= 16  # a quarter of the objective, at most


def test_a_short_batch_runs_on_the_event_loop_with_all_that_came_in_its_turn() -> None:
    where = []

    def run(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        where.append((threading.current_thread() is threading.main_thread(), len(columns["x"])))
        return {"y": columns["x"]}

    async def main() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(run, executor, Counters(), max_batch_size=8, max_queue=99, pace=Pace(1e-6, 1e-6))
            await asyncio.gather(*(batcher.submit(rows([float(i)])) for i in range(5)))

    asyncio.run(main())
    assert where == [(True, 5)]


def test_what_has_waited_for_too_long_is_answered_and_not_run() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        runs = asyncio.create_task(batcher.submit(rows([0.0]), seconds=0.1))
        await asyncio.to_thread(model.entered.wait, 10)
        waits = asyncio.create_task(batcher.submit(rows([1.0] * 5), seconds=0.05))
        stays = asyncio.create_task(batcher.submit(rows([2.0]), seconds=60))
        for late in (runs, waits):
            with pytest.raises(Refused) as refusal:
                await asyncio.wait_for(late, 5)
            assert refusal.value.http == 504
        assert batcher.waiting_rows == 1
        model.gate.set()
        assert (await stays)["y"].tolist() == [4.0]

    assert with_batcher(test).batches == [[0.0], [2.0]]


def test_a_full_batch_is_handed_over_while_one_runs() -> None:
    """And no other before that one runs; the rows that fill none wait for more."""

    async def test(batcher: Batcher, model: Model) -> None:
        first, rest = await behind_a_long_call(batcher, model, 6)
        assert batcher.waiting_rows == 18 - 8
        model.gate.set()
        answers = await asyncio.gather(*rest)
        assert [answer["y"].tolist() for answer in answers] == [[2.0 * i] * 3 for i in range(1, 7)]
        await first

    model = with_batcher(test, pace=Pace(0.001))
    assert list(map(len, model.batches)) == [1, 8, 8, 2]


def test_what_is_predicted_does_not_run_away_while_batches_are_handed_over() -> None:
    """Calls that end early are no reason to expect the next ones late."""
    ahead: list[float] = []

    async def test(batcher: Batcher, model: Model) -> None:
        async def one(value: float) -> None:
            await batcher.submit(rows([value] * 8))
            ahead.append(batcher._ends - time.perf_counter())

        await asyncio.gather(*(one(float(i)) for i in range(60)))

    model = with_batcher(test, pace=Pace(0.01))
    assert len(model.batches) == len(ahead) == 60
    assert max(ahead) < 0.03


def test_a_shorter_wait_holds_for_who_waits_already() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        waits = asyncio.create_task(batcher.submit(rows([1.0])))
        await asyncio.sleep(0.01)
        batcher.limit(max_wait=0.0, max_queue=None, slo=None)
        assert (await asyncio.wait_for(waits, 5))["y"].tolist() == [2.0]

    with_batcher(test, max_wait=60.0)


def test_who_is_late_makes_room_while_more_waits_than_a_call_takes() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        runs = asyncio.create_task(batcher.submit(rows([0.0])))
        await asyncio.to_thread(model.entered.wait, 10)
        late = [asyncio.create_task(batcher.submit(rows([1.0] * 4))) for _ in range(3)]
        await asyncio.sleep(0.35)
        new = [asyncio.create_task(batcher.submit(rows([2.0 + i] * 4))) for i in range(2)]
        await asyncio.sleep(0)
        model.gate.set()
        for one in late:
            with pytest.raises(Refused) as refusal:
                await one
            assert (refusal.value.http, refusal.value.headers["retry-after"]) == (429, "1")
        for i, one in enumerate(new):
            assert (await one)["y"].tolist() == [4.0 + 2 * i] * 4
        await runs
        # Late as well, but nobody is in time in its place.
        model.gate.clear()
        model.entered.clear()
        again = asyncio.create_task(batcher.submit(rows([0.0])))
        await asyncio.to_thread(model.entered.wait, 10)
        only = asyncio.create_task(batcher.submit(rows([5.0] * 4)))
        await asyncio.sleep(0.35)
        model.gate.set()
        assert (await only)["y"].tolist() == [10.0] * 4
        await again

    model = with_batcher(test, max_batch_size=4, slo=0.3, pace=Pace(0.03))
    assert model.batches == [[0.0], [2.0] * 4, [3.0] * 4, [0.0], [5.0] * 4]


def test_who_came_before_another_objective_is_not_late_by_it() -> None:
    async def test(batcher: Batcher, model: Model) -> None:
        model.gate.clear()
        runs = asyncio.create_task(batcher.submit(rows([0.0])))
        await asyncio.to_thread(model.entered.wait, 10)
        before = [asyncio.create_task(batcher.submit(rows([1.0] * 4))) for _ in range(3)]
        await asyncio.sleep(0.1)
        batcher.limit(max_wait=0.0, max_queue=None, slo=0.05)
        model.gate.set()
        for one in (runs, *before):
            assert len((await one)["y"]) in (1, 4)

    assert len(with_batcher(test, max_batch_size=4, slo=9.0, pace=Pace(0.001)).batches) == 4
