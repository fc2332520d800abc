from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specml.serving.pace import BOUNDS, Pace, fitted


@given(st.floats(0, 1e-2), st.floats(1e-7, 1e-3))
def test_a_line_is_found(fixed: float, per_row: float) -> None:
    found = fitted([(rows, fixed + per_row * rows) for rows in (1, 8, 64, 256)])
    assert found == pytest.approx((fixed, per_row), rel=1e-4, abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(1e-7, 10)), min_size=1, max_size=6))
def test_no_cost_is_negative(found: list[tuple[int, float]]) -> None:
    fixed, per_row = fitted(found)
    assert fixed >= 0
    assert per_row >= 0
    assert fixed + per_row > 0


def test_calls_are_timed_until_that_is_enough() -> None:
    calls: list[int] = []

    def call(rows: int) -> None:
        calls.append(rows)
        time.sleep(0.4 if rows > 1 else 0.001)

    costs = Pace.timed(call, 256)
    assert calls[:3] == [1, 1, 1]
    assert len(calls) <= 5
    assert costs.seconds(8) == pytest.approx(0.4, rel=0.5)


def test_a_pause_of_the_machine_is_soon_forgotten_and_a_slow_one_learned() -> None:
    costs = Pace(0.001, 0.0001)
    costs.seen(10, 30.0)
    assert costs.seconds(10) <= 1.1 * 0.002 + 1e-9
    for _ in range(100):
        costs.seen(10, 0.02)
    assert costs.seconds(10) == pytest.approx(0.02, rel=0.01)
    assert costs.rows_within(costs.seconds(10)) == pytest.approx(10)
    for _ in range(500):
        costs.seen(10, 1e-9)
    assert costs.busy == BOUNDS[0]
