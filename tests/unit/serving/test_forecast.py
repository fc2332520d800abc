"""Requests for forecasts: what was is found by its time, in a history of the row's own or in one for all rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.bundle import Contract
from specml.data import Column, PastRows, Steps
from specml.serving.announce import example_row
from specml.serving.client import told
from specml.serving.history import before_by, by_steps, numbered
from specml.serving.openapi import openapi
from specml.serving.refusal import Refused
from specml.serving.request import named, read_rows
from tests.unit.test_forecast import steps_of

if TYPE_CHECKING:
    from specml.serving.request import Rows

START = datetime(2024, 1, 1)
HOURS = Steps(step=3600.0, horizon=3, season=4)


def contract(steps: Steps = HOURS, by: tuple[str, ...] = ("shop",)) -> Contract:
    names = ("holiday", "sales@-3", "sales@-4", "sales@-7", *by)
    inputs = tuple(Column(name=name, kind="categorical" if name in by else "numeric", nullable=True) for name in names)
    history = PastRows(rows=7, columns=("sales",), time="at", by=by, steps=steps)
    return Contract(name="shops", task="regression", target="sales", inputs=inputs, candidate="any", history=history)


def at(hour: int) -> str:
    return (START + timedelta(hours=hour)).isoformat()


def past(hours: range = range(10), shops: str = "ab") -> list[dict[str, Any]]:
    return [
        {"at": at(hour), "shop": shop, "sales": 10.0 * hour + place}
        for hour in hours
        for place, shop in enumerate(shops)
    ]


def seen(rows: Rows, name: str) -> list[float | None]:
    return [None if np.isnan(one) else float(one) for one in rows.columns[name]]


def test_one_history_serves_all_rows_up_to_the_horizon() -> None:
    rows = [{"at": at(hour), "shop": shop, "holiday": 0} for shop in "ba" for hour in (10, 11, 12)]
    read = named(rows, contract(), past())
    assert seen(read, "sales@-3") == [71, 81, 91, 70, 80, 90]
    assert seen(read, "sales@-4") == [61, 71, 81, 60, 70, 80]
    assert seen(read, "sales@-7") == [31, 41, 51, 30, 40, 50]
    assert read.columns["shop"].tolist() == ["b"] * 3 + ["a"] * 3
    mixed = list(reversed(past()))
    assert seen(named(rows, contract(), mixed), "sales@-3") == seen(read, "sales@-3")


def test_a_row_may_have_a_history_of_its_own() -> None:
    own = [{"at": at(8), "sales": 5.0}, {"at": at(9), "sales": 6.0}]
    read = named([{"at": at(12), "shop": "a", "history": own}, {"at": at(12), "shop": "a"}], contract(), past())
    assert seen(read, "sales@-3") == [6, 90]
    assert seen(read, "sales@-7") == [None, 50]


def test_what_lacks_is_missing() -> None:
    with_gap = [one for one in past() if one["at"] != at(8)] + [{"at": at(8), "shop": "a", "sales": None}]
    read = named([{"at": at(11), "shop": "a"}, {"at": at(12), "shop": "b"}], contract(), with_gap)
    assert seen(read, "sales@-3") == [None, 91]
    assert seen(read, "sales@-4") == [70, None]


def test_values_as_columns_need_no_history() -> None:
    read = named([{"holiday": 1, "sales@-3": 4.0, "at": at(0), "shop": "a"}], contract())
    assert (seen(read, "sales@-3"), seen(read, "sales@-4")) == ([4.0], [None])


def test_a_row_without_history_and_past_values_is_refused() -> None:
    row = {"holiday": 1, "sales@-3": 4.0, "at": at(0), "shop": "a"}
    with pytest.raises(Refused, match=r"rows\[1\] has no history, and none of the past values") as refusal:
        named([row, {"holiday": 1, "at": at(0), "shop": "a"}], contract())
    assert refusal.value.http == 422


@pytest.mark.parametrize(
    ("row", "shared", "says"),
    [
        ({"at": at(13), "shop": "a"}, past(), "rows[0] is 4 steps later than what is known of its series; the model"),
        ({"at": at(12), "shop": "c"}, past(), "rows[0] has no history: no row of its series is known."),
        ({"at": at(12), "shop": "a"}, [], "rows[0] has no history"),
        ({"shop": "a"}, past(), "rows[0] has no at, by which its history is found."),
        ({"at": at(12)}, past(), "rows[0] has no shop, which tells series apart."),
        (
            {"at": at(12), "shop": "a"},
            [{"at": at(1), "sales": 1}],
            "history[-1] has no shop, which tells series apart.",
        ),
        ({"at": at(12), "shop": "a"}, [{"shop": "a", "sales": 1}], "history[-1] has no at, by which it is found."),
        ({"at": at(12), "shop": "a"}, past() + past(range(1)), "history[-2] stands in the same step as another row"),
        ({"at": "2024-01-01T11:30:00", "shop": "a"}, past(), "rows[0].at stands between the steps of its history."),
        (
            {"at": at(12), "shop": "a"},
            [*past(), {"at": "2024-01-01T11:30:00", "shop": "a"}],
            "history[-1].at stands between the steps of the rows before it.",
        ),
        ({"at": at(12), "shop": "a"}, [{"at": "soon", "shop": "a"}], "history[-1].at is no time"),
        ({"at": at(12), "shop": "a"}, {"at": 1}, "history is a JSON object, not a list of rows."),
        ({"at": at(12), "shop": "a"}, [3], "history[-1] is a JSON number, not an object."),
        ({"at": at(12), "shop": "a"}, [{"sale": 3}], "history[-1].sale is no column of this model. Did you mean"),
        ({"at": at(12), "shop": "a", "sales@-3": 1.0}, past(), "rows[0] has history and 'sales@-3', which says"),
        (
            {"at": at(12), "shop": "a", "history": [{"at": at(10), "shop": "b", "sales": 1}]},
            None,
            "rows[0].history[-1].shop is another than elsewhere: a history is of one shop.",
        ),
        ({"at": at(12), "shop": "a"}, [{"at": at(9), "shop": "a", "sales": "x"}], "sales 3 steps before rows[0] is"),
    ],
)
def test_what_is_no_history_is_refused(row: Any, shared: Any, says: str) -> None:
    with pytest.raises(Refused) as refusal:
        named([row], contract(), shared)
    assert (refusal.value.http, refusal.value.what[: len(says)]) == (422, says)


def test_only_a_forecast_takes_one_history_for_all() -> None:
    body = b'{"rows": [{"holiday": 1}], "history": []}'
    assert contract().history is not None
    plain = contract().model_copy(update={"history": PastRows(rows=7, columns=("sales",), time="at", by=("shop",))})
    for known, says in ((plain, "'history' is no key known here"), (contract(), "rows[0] has no shop, which tells")):
        with pytest.raises(Refused) as refusal:
            read_rows(body, known, 10)
        assert says in refusal.value.what


VALUES = st.recursive(
    st.none() | st.floats() | st.integers(-9, 9) | st.sampled_from([at(3), "2024-13-01", "", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["at", "shop", "sales", "x", "history"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["at", "shop", "sales"]), VALUES, max_size=3) | VALUES) | VALUES, VALUES
)
def test_anything_else_is_refused_or_taken(shared: Any, own: Any) -> None:
    try:
        read = named([{"at": at(5), "shop": "a", "history": own}, {"at": at(5), "shop": "a"}], contract(), shared)
    except Refused as refusal:
        assert refusal.http == 422  # noqa: PT017 - some are taken
    else:
        assert read.n == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)), min_size=1),
    st.sampled_from(["month", "quarter", "year"]),
)
def test_steps_of_the_calendar_are_counted_as_in_training(times: list[datetime], step: Any) -> None:
    told = Steps(step=step, horizon=1, season=1)
    numbers = [numbered((one - datetime(1970, 1, 1)).total_seconds(), told)[0] for one in times]
    assert [one - numbers[0] for one in numbers] == steps_of(times, step)


def test_a_month_may_be_anywhere_in_it() -> None:
    months = contract(Steps(step="month", horizon=3, season=4), by=())
    before = [{"at": "2023-12-31", "sales": 1.0}, {"at": "2024-02-29", "sales": 3.0}]
    read = named([{"at": "2024-03-01"}, {"at": "2024-05-31"}], months, before)
    assert (seen(read, "sales@-3"), seen(read, "sales@-4")) == ([1, 3], [None, None])
    assert before_by("2024-03-15", 4, Steps(step="month", horizon=1, season=1)) == "2023-11-01T00:00:00Z"


def test_the_example_is_taken_and_the_document_tells_the_steps() -> None:
    for one in (contract(), contract(Steps(step="quarter", horizon=2, season=3), by=())):
        row = example_row(one)
        assert one.history is not None
        assert one.history.steps is not None
        (read,) = by_steps([row], [column.name for column in one.inputs], one.history, one.history.steps)
        assert any("@" in name for name in read)
        assert named([row] * 3, one).n == 3
        document = openapi(one, version="1", max_rows=50, max_body=9, explained_rows=5, secured=False, notice={})
        kinds, most, history = told(document)
        assert (most, history) == (50, one.history)
        assert kinds["sales@-3"] == "numeric"
        asked = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert "The rows of all series" in asked["oneOf"][0]["properties"]["history"]["description"]
