"""Times are told alike in Python and in the graph, and as the calendar has them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specml.data import Column, feature_values, seconds
from specml.features.date import FIRST, LAST, PARTS, Date, FittedDate
from specml.files import canonical_json
from specml.graph import Graph
from specml.kinds import Preference, Training

TREES = Training(Preference("native", "none", "ordinal"), np.zeros(0), "binary")
LINEAR = Training(Preference("median", "standard", "onehot"), np.zeros(0), "binary")
COLUMN = Column(name="at", kind="datetime", nullable=True)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ODD = np.array([
    np.nan, 0.0, -0.0, -1.0, -1e-6, 1e-6, 86399.999999, 86400.0, 951782400.0, 951868800.0, 4107542400.0, -2208988800.0,
    FIRST, LAST, FIRST - 1, LAST + 1, -1e300, 1e300, np.inf, -np.inf, 1.7e9 + 0.123456,
])  # fmt: skip


def in_graph(fitted: FittedDate, values: np.ndarray) -> np.ndarray:
    graph = Graph("date")
    graph.output("out", fitted.to_onnx(graph, graph.input("at", "float64")), "float32", len(fitted.names))
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out"], {"at": values.reshape(-1, 1)})[0])


def days(n: int = 500) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1.8e9, n).round()


OPTIONS: list[dict[str, Any]] = [
    {},
    {"parts": tuple(PARTS), "cyclic": True, "since": "2020-02-29"},
    {"parts": tuple(PARTS), "cyclic": False},
    {"parts": (), "since": "1970-01-01", "missing": "mean"},
]


@pytest.mark.parametrize("training", [TREES, LINEAR], ids=["trees", "linear"])
@pytest.mark.parametrize("options", OPTIONS, ids=repr)
def test_times_are_equal_in_the_graph(options: Any, training: Training) -> None:
    fitted = Date(**options).fit(COLUMN, np.append(days(), np.nan), training)
    values = np.concatenate([ODD, days()])
    out = fitted.transform(values)
    assert out.shape == (len(values), len(fitted.names))
    assert np.allclose(out, in_graph(fitted, values), rtol=1e-6, atol=1e-6, equal_nan=True)
    assert Date.restore(json.loads(canonical_json(fitted.state()))) == fitted


@settings(max_examples=200, deadline=None)
@given(st.datetimes())
def test_parts_are_those_of_the_calendar(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    time = np.array([(moment - EPOCH) / timedelta(seconds=1)])
    if moment.microsecond > 999_000:  # some thousands of years from 1970 it rounds to the next second
        return
    told = {part: float(of(time)[0]) for part, of in PARTS.items()}
    assert told == {
        "year": moment.year,
        "month": moment.month,
        "day": moment.day,
        "weekday": moment.weekday(),
        "day_of_year": moment.timetuple().tm_yday,
        "hour": moment.hour,
        "minute": moment.minute,
    }


def test_december_is_next_to_january_and_constant_parts_are_left_out() -> None:
    months = np.array([seconds(f"2024-{m:02}-01") for m in range(1, 13)])
    fitted = Date(parts=("year", "month", "hour"), cyclic=True).fit(COLUMN, months, TREES)
    assert fitted.names == ("at: month sine", "at: month cosine")
    out = fitted.transform(months)
    steps = np.linalg.norm(out - np.roll(out, 1, axis=0), axis=1)
    assert np.allclose(steps, steps[0])


def test_days_since() -> None:
    fitted = Date(parts=(), since="2024-01-01").fit(COLUMN, days(), TREES)
    assert fitted.transform(np.array([seconds("2024-01-31T12:00:00")])).tolist() == [[30.5]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-02", 86400.0),
        ("1970-01-01T00:00:01.5", 1.5),
        ("1970-01-01 00:00:01Z", 1.0),
        ("1970-01-01T02:00:00+02:00", 0.0),
        ("0001-01-01T00:00:00+14:00", FIRST - 14 * 3600),
        ("9999-12-31T23:59:59.999999", LAST + 0.999999),
    ],
)
def test_times_are_read_as_iso_8601(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "1970-13-01",
        "1970",
        "01/02/1970",
        "1970-01-01x",
        "1970-01-01\n",
        "19700101",
        "１９７０-01-01",
        "1970-W01",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 8601"):
        seconds(text)


@settings(max_examples=100, deadline=None)
@given(
    st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1)),
    st.sampled_from([None, "UTC", "Asia/Kolkata"]),
)
def test_a_table_and_a_request_tell_the_same_time(moment: datetime, zone: str | None) -> None:
    values = pl.Series("at", [moment], dtype=pl.Datetime("us"))
    if zone:
        values = values.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    assert feature_values(pl.DataFrame([values]), COLUMN).tolist() == [seconds(values[0].isoformat())]
